"""Hub push: a stored profile -> a hub repository; first a plan that can be shown, then one commit of profile and card.

Nothing but those two files is ever sent. The commit is made whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..base import registry
from ..errors import InputError, UploadError, ZenError
from ..format.read import read_header
from ..format.spec import Facts
from ..hub.address import HubSource, check_repo, check_revision
from ..hub.errors import T, first_line, hub_errors, no_token, patiently
from ..paths import SUFFIX
from .card import make_card
from .store import ProfileStore

CARD = "README.md"
_EMBEDDED_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class PushPlan:
    """What a push will do. parent: the commit it builds on (None: the repository is made first).

    card: README.md as it will be, None when the repository's own stays. replaces: a file of that name is there.
    """

    profile: str
    path: Path
    file: str
    file_bytes: int
    sha256: str
    repo: str
    endpoint: str
    private: bool
    revision: str | None
    parent: str | None
    new_branch: bool
    replaces: bool
    base_model: str | None
    card: str | None


@dataclass(frozen=True)
class Pushed:
    """What was published. url: of the commit."""

    commit: str
    url: str


def plan_push(
    store: ProfileStore, name: str, repo: str, *, private: bool = True, revision: str | None = None
) -> PushPlan:
    """Check every byte of profile `name` and ask the hub about `repo`; nothing of the profile is sent.

    `InputError` without a token, or when `repo` is public and `private` was asked for (or the other way round).
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    source = HubSource(check_repo(repo), None if revision is None else check_revision(revision))
    facts = store.load(name)
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            "HF_HUB_OFFLINE forbids asking the hub", field="repo", hint="unset HF_HUB_OFFLINE and try again"
        )
    if get_token() is None:
        raise no_token()
    api, info, new_branch = HfApi(), None, False
    with hub_errors(source, UploadError):
        try:
            info = patiently(lambda: api.model_info(repo))
            if revision is not None:
                info = patiently(lambda: api.model_info(repo, revision=revision))
        except RevisionNotFoundError:
            new_branch = True
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            new_branch = revision not in (None, "main")
    if info is not None and bool(info.private) != private:
        now, flag = ("private", "--private") if info.private else ("public: everyone can read it", "--public")
        raise InputError(
            f"{repo} is {now}",
            field="private",
            expected="private" if private else "public",
            found="private" if info.private else "public",
            hint=f"use {flag} if that is what you want, or name another repository",
        )
    files = [sibling.rfilename for sibling in (info.siblings or [])] if info is not None else []
    file, base_model = f"{name}{SUFFIX}", _base_model(facts)
    existing = _read_card(source, str(info.sha)) if info is not None and CARD in files else None
    return PushPlan(
        profile=name,
        path=store.path(name),
        file=file,
        file_bytes=facts.file_bytes or 0,
        sha256=facts.sha256 or "",
        repo=repo,
        endpoint=str(constants.ENDPOINT),
        private=private,
        revision=revision,
        parent=None if info is None else str(info.sha),
        new_branch=new_branch,
        replaces=file in files,
        base_model=base_model,
        card=make_card(existing, facts, repo, file, base_model),
    )


def push(plan: PushPlan, message: str | None = None) -> Pushed:
    """Make the repository or branch where there is none, then commit the profile and its card.

    Raises `UploadError`, and `KeyboardInterrupt` when interrupted, both saying what is on the hub then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, source = HfApi(), HubSource(plan.repo, plan.revision)
    if read_header(plan.path).sha256 != plan.sha256:
        raise InputError(f"{plan.profile} changed in the meantime", path=plan.path, hint="push it again")
    operations = [CommitOperationAdd(plan.file, str(plan.path))]
    if plan.card is not None:
        operations.append(CommitOperationAdd(CARD, plan.card.encode()))
    state = "nothing was published"
    try:
        with hub_errors(source, UploadError):
            if plan.parent is None:
                api.create_repo(plan.repo, private=plan.private)
                state += f"; {plan.repo} was made and is empty"
            if plan.new_branch:
                api.create_branch(plan.repo, branch=str(plan.revision), exist_ok=True)
            # What is uploaded before the commit can be seen by nobody, and the next push need not send it again.
            _sent(lambda: api.preupload_lfs_files(plan.repo, operations, revision=plan.revision, free_memory=False))
            state = f"whether the commit was made is not known: look at {plan.endpoint}/{plan.repo}"
            info = _sent(
                lambda: api.create_commit(
                    plan.repo,
                    operations,
                    commit_message=message or f"Add {plan.file}",
                    revision=plan.revision,
                    parent_commit=plan.parent,
                )
            )
    except ZenError as error:
        answered = hasattr(error.__cause__, "response")  # then the hub said no
        error.message += "; nothing was published" if answered and "not known" in state else f"; {state}"
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {state}") from None
    return Pushed(str(info.oid), str(info.commit_url))


def _sent(send: Callable[[], T]) -> T:
    """send(); what an upload raises beside the hub's own errors as `UploadError`."""
    from huggingface_hub.errors import HfHubHTTPError

    from ..hub.errors import transport_error

    try:
        return send()
    except (RuntimeError, ValueError, OSError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (409, 412):
            raise UploadError("the repository changed in the meantime", hint="push again") from cause
        if isinstance(cause, (transport_error(), ConnectionError, TimeoutError)) and "xet" not in str(cause):
            raise cause  # noqa: B904  the hub's own error, for `hub_errors`
        raise UploadError(
            "the upload failed",
            found=first_line(cause),
            hint="try again; set HF_HUB_DISABLE_XET=1 if the hub or a proxy has no xet storage",
        ) from error


def _read_card(source: HubSource, commit: str) -> str:
    from huggingface_hub import hf_hub_download

    with hub_errors(HubSource(source.repo, source.revision, CARD), UploadError):
        path = patiently(lambda: hf_hub_download(source.repo, CARD, revision=commit))
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _base_model(facts: Facts) -> str | None:
    """The hub id of the profile's base, where its name says one."""
    model = str(facts.base.get("model") or "")
    if model == registry.EMBEDDED:
        return _EMBEDDED_REPO
    try:
        source = registry.resolve(model)
    except ZenError:
        return None
    return source.repos[0] if source.kind == "hub" else None
