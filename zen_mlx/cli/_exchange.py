"""zen profile export and import: files and folders in our format and in other programs'. Imports mlx for theirs only."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import paths
from ..errors import ConfigError
from . import _view
from ._options import AsJson, Command, Model, ProfileName, Replace


class Format(enum.StrEnum):
    """What an export can be."""

    v2 = "v2"
    v1 = "v1"
    hf = "hf"
    peft = "peft"
    mlx_lm = "mlx-lm"


def register(app: typer.Typer) -> None:
    """Add the two commands to `app`."""
    app.command("export", cls=Command)(export_profile)
    app.command("import")(import_profile)


def export_profile(
    name: ProfileName,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it: a file, for hf, peft and mlx-lm a folder.")
    ],
    to: Annotated[Format, typer.Option("--format", help="Our format's version, or another program's.")] = Format.v2,
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="R", help="For peft and mlx-lm: approximate what is no low-rank factor.", show_default=False
        ),
    ] = None,
    model: Model = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file or folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a profile to a file that another machine can import, or for another program.

    Version 1 is the whitepaper's format. hf is base and profile merged into one checkpoint; peft and mlx-lm are LoRA
    adapters, exact where the profile is made of factors. What cannot be kept is said.

    Examples:

    \b
      zen profile export cynic cynic.bitdelta
      zen profile export cynic old.bitdelta --format v1
      zen profile export cynic ./cynic-merged --format hf
      zen profile export cynic ./cynic-lora --format mlx-lm --rank 16
    """
    from ..profiles.store import ProfileStore

    error = None
    target = file
    if to in (Format.v1, Format.v2):
        if rank is not None:
            raise ConfigError("this format has no rank", field="rank", expected="peft or mlx-lm", found=to.value)
        target = file / f"{name}{paths.SUFFIX}" if file.is_dir() else file
        lost = ProfileStore(paths.zen_home()).export(name, target, int(to.value[1:]), replace)
    else:
        from ._model import choose, open_manager

        exported = open_manager(choose(model, name), None, as_json).export_folder(
            name, target, to.value, rank=rank, replace=replace
        )
        lost, error = list(exported.notes), exported.error
    for sentence in () if as_json else lost:
        _view.notice(f"note: {sentence}")
    size = sum(part.stat().st_size for part in ([target] if target.is_file() else target.iterdir()))
    result: dict[str, Any] = {
        "profile": name, "path": str(target), "format": to.value, "file_bytes": size, "lost": lost,
    }  # fmt: skip
    if error is not None:
        result["relative_error"] = error
    _done(result, f"{target}  {_view.size(size)}", as_json)


def import_profile(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .bitdelta file, another program's delta, or a LoRA adapter's folder."),
    ],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Default: the name in the file.")] = None,
    model: Model = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Keep a copy of a profile file.

    Every byte is verified. With -m, the profile must belong to that base; without it, that is checked when it is used.
    Files of other programs (LoRA adapters of mlx-lm and PEFT, BitDelta's diff.pt, ..) are told by their content and kept
    without loss. They do not say which weights they were made for: names and shapes are checked against the base (-m),
    and the profile is listed as unverified.

    Examples:

    \b
      zen profile import cynic.bitdelta
      zen profile import download.bitdelta --as friend -m smollm2-135m
      zen profile import ./my-lora --as mine -m smollm2-135m
    """
    from ..interop.parse.detect import is_foreign
    from ..profiles.store import ProfileStore

    store = ProfileStore(paths.zen_home())
    if model is None and not is_foreign(file):
        kept = store.import_file(file, name, replace)
    else:
        from ._model import lazy_manager

        with _view.progress(as_json) as report:
            kept = lazy_manager(model, report).import_profile(file, name, replace)
    header = store.header(kept)
    verified = bool(header.base.get("verified", False))
    if not verified and not as_json:
        _view.notice("note: this file does not say which weights it was made for: shapes are all that can be checked")
    result = {"profile": kept, "path": str(header.path), "base": header.base.get("model"), "verified": verified}
    if "origin" in header.info:
        result["origin"] = header.info["origin"]
    if "import_note" in header.info:
        result["note"] = header.info["import_note"]
        if not as_json:
            _view.notice(f"note: {result['note']}")
    _done(result, kept, as_json)


def _done(result: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _view.emit(result)
    else:
        _view.say(text)
