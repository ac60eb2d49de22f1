"""zen profile push and pull: profiles to and from the hub. Imports no mlx."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import paths
from ..errors import InputError
from ..hub import settings
from . import _view
from ._options import AsJson, Model, ProfileName, Replace

if TYPE_CHECKING:
    from ..events import Progress
    from ..profiles.push import PushPlan


def register(app: typer.Typer) -> None:
    """Add the two commands to `app`."""
    app.command("push")(push_profile)
    app.command("pull")(pull_profile)


def push_profile(
    name: ProfileName,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub; made if there is none.")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who can read it: you and those you let in, or everyone.")
    ] = True,
    revision: Annotated[
        str | None, typer.Option(metavar="R", help="Branch; made if there is none. Default: main.", show_default=False)
    ] = None,
    message: Annotated[str | None, typer.Option(metavar="M", help="Message of the commit.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a profile on the Hugging Face hub, in a private repository.

    Only the profile and its card (README.md) are sent: never data, reports or checkpoints. What will be sent is shown
    first. Needs a token that may write: HF_TOKEN or `hf auth login`.

    Examples:

    \b
      zen profile push cynic OWNER/cynic
      zen profile push cynic OWNER/profiles --public --yes
    """
    from ..profiles.push import plan_push, push
    from ..profiles.store import ProfileStore

    settings.quiet(not as_json and sys.stderr.isatty())
    plan = plan_push(ProfileStore(paths.zen_home()), name, repo, private=private, revision=revision)
    if not as_json:
        for line in _plan_lines(plan):
            _view.notice(_view.printable(line))
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InputError(f"nothing was sent: {name!r} would leave this machine", hint="say --yes")
        if not typer.confirm("Send it?", err=True):
            raise InputError("nothing was sent")
    done = push(plan, message)
    result = {
        "profile": name,
        "repo": plan.repo,
        "file": plan.file,
        "files": [plan.file] + (["README.md"] if plan.card is not None else []),
        "private": plan.private,
        "revision": plan.revision or "main",
        "commit": done.commit,
        "url": done.url,
        "file_bytes": plan.file_bytes,
        "sha256": plan.sha256,
    }
    if as_json:
        _view.emit(result)
    else:
        _view.say(done.url)
        _view.notice(f"To get it: zen profile pull {plan.repo}" + (f"@{plan.revision}" if plan.revision else ""))


def pull_profile(
    repo: Annotated[str, typer.Argument(metavar="REPO[@REVISION]", help="OWNER/NAME on the hub, or a URL.")],
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Which profile, where it holds several.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Default: the name in the file.", show_default=False)
    ] = None,
    model: Model = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a profile from the hub and keep it.

    Every byte is verified, and against the hub's digest. A download that was cut off goes on where it stopped. With -m,
    the profile must belong to that base; without it, that is checked when it is used.

    Examples:

    \b
      zen profile pull OWNER/cynic
      zen profile pull OWNER/profiles@v2 --file cynic.bitdelta --as friend
    """
    from ..hub.address import HubSource, hub_source, parse
    from ..profiles.download import local_copy
    from ..profiles.store import ProfileStore

    settings.quiet(False)
    source = parse(repo) if repo.startswith(("http://", "https://")) else hub_source(repo)
    store = ProfileStore(paths.zen_home())
    if name is not None:
        store.check_free(name, replace)
    place = source if isinstance(source, HubSource) else repo
    label = "downloading " + _view.printable(str(source) if isinstance(source, HubSource) else "the profile")
    try:
        with (
            _view.progress(as_json) as bar,
            local_copy(place, lambda _, done, total: bar(label, done, total), file) as (path, found),
        ):
            kept = _keep(store, str(path), name or _name_in(str(path), found, repo), model, replace, bar)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted: no profile was changed; run the same command again to continue after what has arrived"
        ) from None
    header = store.header(kept)
    verified = bool(header.base.get("verified", False))
    if found is not None and found.cached and not as_json:
        _view.notice("note: the hub was not asked; this is the copy that was fetched before")
    if not verified and not as_json:
        _view.notice("note: this file does not say which weights it was made for: shapes are all that can be checked")
    result: dict[str, Any] = {
        "profile": kept,
        "path": str(header.path),
        "base": header.base.get("model"),
        "verified": verified,
        "repo": None if found is None else found.source.repo,
        "file": None if found is None else found.source.file,
        "commit": None if found is None else found.commit,
        "file_bytes": header.file_bytes,
        "sha256": header.sha256,
    }
    if as_json:
        _view.emit(result)
    else:
        _view.say(kept)
        _view.notice(f"Next: zen chat -p {kept}")


def _keep(store: Any, path: str, name: str, model: str | None, replace: bool, on_pull: Progress) -> str:
    if model is None:
        return str(store.import_file(path, name, replace))
    from ._model import lazy_manager

    return lazy_manager(model, on_pull).import_profile(path, name, replace)


def _name_in(path: str, found: Any, url: str) -> str:
    """The name in the file, else the file's own; a file may call itself anything, so it is checked like any other name."""
    from ..format.read import read_header

    own = (found.source.file if found is not None else url.partition("?")[0]).rpartition("/")[2]
    name = str(read_header(path).info.get("name") or "") or own.removesuffix(paths.SUFFIX)
    try:
        return paths.check_name(name)
    except InputError as error:
        error.hint = "choose one with --as NAME"
        raise


def _plan_lines(plan: PushPlan) -> list[str]:
    who = "private: you and those you let in" if plan.private else "public: everyone can read it"
    there = "there already" if plan.found.commit is not None else "will be made"
    card = "the profile's card" if plan.card is not None else "the repository has its own: it stays as it is"
    lines = [
        ("to", f"{plan.endpoint}/{plan.repo} ({there})"),
        ("visible to", who),
        ("branch", (plan.revision or "main") + (" (will be made)" if plan.found.new_branch else "")),
        (
            "file",
            f"{plan.file}  {_view.size(plan.file_bytes)}" + ("  (replaces the one there)" if plan.replaces else ""),
        ),
        ("README.md", card),
        ("names as its base", plan.base_model or "none on the hub"),
        ("what the file says", f"`zen profile show {plan.profile}`; it holds numbers and digests, no text"),
    ]
    return ["This will be sent, and nothing else:", *(f"  {label:<20}{value}" for label, value in lines)]
