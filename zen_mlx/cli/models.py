"""zen models: the base models, on this machine and to be fetched."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _view
from ._options import AsJson, Command, complete_model, model_names

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, fetch, describe and quantize base models.")

_Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Alias, hub repository or folder.", autocompletion=complete_model),
]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the aliases and the bases made on this machine.

    Any mlx-lm repository of the hub and any local folder is a model too.

    Examples:

    \b
      zen models list
      zen models list --json
    """
    from ..base import pull, registry

    rows = []
    for name in model_names():
        source = registry.resolve(name)
        path = pull.local_path(name)
        rows.append(
            {
                "name": name,
                "summary": source.summary,
                "kind": source.kind,
                "repos": list(source.repos),
                "path": None if path is None else str(path),
            }
        )
    if as_json:
        _view.emit(rows)
        return
    listing = _view.table("name", "here", "what")
    for row in rows:
        where = f" ({', '.join(row['repos'])})" if row["repos"] else ""
        listing.add_row(_view.cell(row["name"]), "yes" if row["path"] else "no", _view.cell(f"{row['summary']}{where}"))
    _view.show(listing)


@app.command("pull")
def pull_model(name: _Name, as_json: AsJson = False) -> None:
    """Fetch a base model, or find that it is here.

    An interrupted download goes on where it stopped.

    Examples:

    \b
      zen models pull smollm2-135m
      zen models pull zen-nano-4b
      zen models pull mlx-community/Qwen3-0.6B-bf16
    """
    from ..base import omni, pull, validate

    with _view.progress(as_json) as report:
        path = pull.pull(name, report)
    for note in omni.notes(validate.read_config(path)):
        _view.notice(note)
    if as_json:
        _view.emit({"name": name, "path": str(path)})
    else:
        _view.say(str(path))


@app.command("show")
def show_model(name: _Name, as_json: AsJson = False) -> None:
    """Describe a base on this machine: its folder, its digests, how it is quantized.

    "path" is a folder that mlx-lm can load.

    Examples:

    \b
      zen models show smollm2-135m
      zen models show smollm2-135m --json
    """
    from ..base import pull
    from ..base.loaded import base_info
    from ..base.registry import resolve

    if resolve(name).kind == "embedded":
        with _view.progress(as_json) as report:
            pull.pull(name, report)
    document = base_info(name).to_dict()
    if as_json:
        _view.emit(document)
        return
    facts = _view.table("", "")
    facts.show_header = False
    quantization = document["quantization"]
    for label, value in (
        ("name", document["name"]),
        ("path", document["path"]),
        ("architecture", document["architecture"]),
        ("quantization", "none" if quantization is None else ", ".join(f"{k} {v}" for k, v in quantization.items())),
        ("derived from", document["derived_from"]),
        ("weights digest", document["fingerprint"]["weights"]),
        ("tokenizer digest", document["fingerprint"]["tokenizer"]),
        *(("note", note) for note in document["notes"]),
    ):
        if value is not None:
            facts.add_row(label, _view.cell(value))
    _view.show(facts)


@app.command("quantize", cls=Command)
def quantize_model(
    name: _Name,
    bits: Annotated[int, typer.Option(metavar="B", help="Bits per weight: 2, 3, 4, 5, 6 or 8.")],
    group_size: Annotated[int, typer.Option(metavar="N", help="Weights that share a scale: 32, 64 or 128.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Make a smaller copy of a base, which profiles of the original can lie on too.

    Examples:

    \b
      zen models quantize smollm2-135m --bits 4
      zen chat -m smollm2-135m-4bit
    """
    from ..base import pull
    from ..base.quantize import BITS, GROUP_SIZES, quantize
    from ..errors import ConfigError

    for field, value, allowed in (("bits", bits, BITS), ("group_size", group_size, GROUP_SIZES)):
        if value not in allowed:  # before the base is fetched
            raise ConfigError(f"bad {field}", field=field, expected=allowed, found=value)
    with _view.progress(as_json) as report:
        pull.pull(name, report)
        report(f"quantizing {name}", 0, None)
        path = quantize(name, bits, group_size)
    if as_json:
        _view.emit({"name": path.name, "path": str(path), "bits": bits, "group_size": group_size})
    else:
        _view.say(f"{path.name}  {path}")
        _view.notice(f"Next: zen chat -m {path.name}")
