"""zen profile: list, show, move and combine profiles. list, verify and the like import no mlx."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import paths
from ..errors import ConfigError, InputError, ZenError
from . import _exchange, _hub, _view
from ._options import AsJson, Command, ProfileName, Replace, complete_profile
from .inspect import document, facts_document, print_facts, print_profile

if TYPE_CHECKING:
    from ..format.spec import Header
    from ..profiles.store import ProfileStore

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, look at, move and combine profiles.")

_Names = Annotated[list[str], typer.Argument(metavar="A B...", autocompletion=complete_profile)]


def _store() -> ProfileStore:
    from ..profiles.store import ProfileStore

    return ProfileStore(paths.zen_home())


@app.command("list")
def list_profiles(as_json: AsJson = False) -> None:
    """List the profiles.

    Examples:

    \b
      zen profile list
      zen profile list --json
    """
    rows: list[dict[str, Any]] = []
    for name, header in _store().headers():
        if isinstance(header, ZenError):
            rows.append({**dict.fromkeys(_COLUMNS), "name": name, "verified": False, "error": header.to_dict()})
            continue
        rows.append(
            {
                "name": name,
                "base": header.base.get("model"),
                "method": header.info.get("method"),
                "bits_per_weight": header.bits_per_weight,
                "file_bytes": header.file_bytes,
                "created": header.info.get("created"),
                "sha256": header.sha256,
                "verified": bool(header.base.get("verified", False)),
            }
        )
    if as_json:
        _view.emit(rows)
        return
    if not rows:
        _view.notice("there are no profiles yet; `zen train DATA --profile NAME` makes one, `zen demo` shows how")
        return
    listing = _view.table("name", "base", "method", "bits/weight", "size", "created", right=("bits/weight", "size"))
    for row in rows:
        if "error" in row:
            listing.add_row(_view.cell(row["name"]), _view.cell(f"damaged: {row['error']['message']}"))
            continue
        listing.add_row(
            _view.cell(row["name"]),
            _view.cell((row["base"] or "-") + ("" if row["verified"] else " (unverified)")),
            _view.cell(row["method"] or "-"),
            _view.number(row["bits_per_weight"]),
            _view.size(row["file_bytes"]),
            _view.cell(row["created"] or "-"),
        )
    _view.show(listing)


_COLUMNS = ("name", "base", "method", "bits_per_weight", "file_bytes", "created", "sha256", "verified")


@app.command("show")
def show_profile(name: ProfileName, as_json: AsJson = False) -> None:
    """Describe one profile from its header.

    Examples:

    \b
      zen profile show cynic
      zen profile show cynic --json
    """
    header = _store().header(name)
    known, why_alone = _shares_batch(header)
    if as_json:
        _view.emit({**facts_document(header), "shares_batch": why_alone is None if known else None})
        return
    print_facts(header)
    if known:
        _view.say(f"  {'in a batch':<18}{'with other profiles' if why_alone is None else f'alone: {why_alone}'}")


def _shares_batch(header: Header) -> tuple[bool, str | None]:
    """(whether it can be known here, why requests for the profile cannot share a batch with others)."""
    from ..base.pull import local_path
    from ..errors import ZenError

    try:
        folder = local_path(str(header.base.get("model") or ""))
    except ZenError:
        folder = None
    if folder is None:
        return False, None
    from ..adapter.attach import check
    from ..adapter.resident_set import Content, ResidentSet
    from ..base.build import build

    try:
        model = build(folder)
        check(model, header.tensors)
    except ZenError:
        return False, None
    contents = {
        name: Content(any(part["kind"] != "rows" for part in tensor.layout), tensor.rows is not None)
        for name, tensor in header.tensors.items()
    }
    return True, ResidentSet(model).why_alone_by_content(contents)


@app.command("verify")
def verify_profile(name: ProfileName, as_json: AsJson = False) -> None:
    """Check every byte of a profile.

    Examples:

    \b
      zen profile verify cynic
    """
    profile = _store().load(name)
    if as_json:
        _view.emit(document(profile))
    else:
        print_profile(profile)


@app.command("rename")
def rename_profile(
    old: ProfileName,
    new: Annotated[str, typer.Argument(metavar="NEW")],
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Give a profile another name.

    Examples:

    \b
      zen profile rename cynic ambrose
    """
    path = _store().rename(old, new, replace)
    _done({"renamed": old, "profile": new, "path": str(path)}, f"{old} is now {new}", as_json)


@app.command("remove")
def remove_profile(
    name: ProfileName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a profile.

    Examples:

    \b
      zen profile remove cynic
      zen profile remove cynic --yes
    """
    store = _store()
    store.path(name)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InputError(f"nothing was removed: {name!r} would be gone for good", hint="say --yes")
        if not typer.confirm(f"Remove {name} for good?", err=True):
            raise InputError("nothing was removed")
    store.remove(name)
    _done({"removed": name}, f"{name} is removed", as_json)


@app.command("diff")
def diff_profiles(
    a: Annotated[str, typer.Argument(metavar="A", autocompletion=complete_profile)],
    b: Annotated[str, typer.Argument(metavar="B", autocompletion=complete_profile)],
    as_json: AsJson = False,
) -> None:
    """Say how two profiles differ, in all and where most.

    Cosine is that of the angle between the two changes: 1 the same, 0 unrelated, -1 opposite.

    Examples:

    \b
      zen profile diff cynic hacker
    """
    from ..profiles.diff import diff

    store = _store()
    result = diff(store.load(a), store.load(b))
    if as_json:
        _view.emit(result)
        return
    total = result["total"]
    _view.say(f"  {'cosine':<18}{_view.number(total['cosine'], 4)}")
    _view.say(f"  {'equal signs':<18}{_percent(total['sign_agreement'])}")
    _view.say(f"  {'|B| / |A|':<18}{_view.number(total['relative_norm'])}")
    _view.say(f"  {'same base':<18}{'yes' if result['same_base'] else 'no'}")
    for label, only in ((f"only in {a}", result["only_a"]), (f"only in {b}", result["only_b"])):
        if only:
            _view.say(f"  {label:<18}{len(only)} tensors")
    compared = [row for row in result["tensors"] if row["cosine"] is not None]
    listing = _view.table("least alike", "cosine", "equal signs", "|B| / |A|", right=("cosine", "equal signs"))
    for row in sorted(compared, key=lambda row: row["cosine"])[:5]:
        listing.add_row(
            _view.cell(row["name"]),
            _view.number(row["cosine"], 4),
            _percent(row["sign_agreement"]),
            _view.number(row["relative_norm"]),
        )
    if compared:
        _view.show(listing)


@app.command("merge", cls=Command)
def merge_profiles(
    profiles: _Names,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the merged profile.")],
    weights: Annotated[
        str | None, typer.Option(metavar="W,W", help="One number each; negative flips. Default: equal, sum 1.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact/--requantize", help="Keep all parts, or go back to one bit per weight.")
    ] = True,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Mix profiles of one base into a new one.

    Examples:

    \b
      zen profile merge cynic hacker --weights 0.7,0.3 --as both
      zen profile merge cynic hacker --as both --requantize
    """
    from ..manager import ZenPersonalizationManager

    shares = None if weights is None else _weights(weights, len(profiles))
    manager = ZenPersonalizationManager()
    merged = manager.merge_profiles(profiles, shares, name=name, exact=exact, replace=replace)
    header = manager.store.header(name)
    error = merged.metrics.get("merge_error")
    result = {
        "profile": name,
        "path": str(header.path),
        "merged_from": list(profiles),
        "merged_weights": header.info.get("merged_weights"),
        "exact": exact,
        "merge_error": error,
        "file_bytes": header.file_bytes,
        "bits_per_weight": header.bits_per_weight,
    }
    lost = "" if error is None else f", {100 * error:.1f} % relative error"
    text = f"{name}: {_view.size(header.file_bytes)}, {_view.number(header.bits_per_weight)} bits per weight{lost}"
    _done(result, text, as_json)


_exchange.register(app)
_hub.register(app)


def _done(result: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _view.emit(result)
    else:
        _view.say(text)


def _weights(text: str, count: int) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError("weights must be numbers", field="weights", expected="as in 0.7,0.3", found=text) from None
    if len(weights) != count or not all(map(math.isfinite, weights)):
        raise ConfigError("one finite weight for each profile", field="weights", expected=count, found=text)
    return weights


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
