"""zen compress: a fine-tuned model -> a profile."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _model, _run_view, _view
from ._options import AsJson, Model, Replace

if TYPE_CHECKING:
    from ..delta.encode import LayerStats

_WORST = 5


class Scale(enum.StrEnum):
    """What shares a scale."""

    tensor = "tensor"
    row = "row"
    col = "col"
    rowcol = "rowcol"
    block = "block"


def compress(
    finetuned: Annotated[
        str, typer.Argument(metavar="FINETUNED", help="A model folder, a hub repository, or a LoRA adapter folder.")
    ],
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="Name of the new profile.")],
    model: Model = None,
    scale: Annotated[Scale, typer.Option(help="What shares a scale.")] = Scale.rowcol,
    planes: Annotated[int, typer.Option(metavar="P", help="Sign planes: about one bit per weight each.")] = 1,
    valid: Annotated[Path | None, typer.Option(metavar="DATA", help="Data to measure the losses on.")] = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Turn a fine-tuned model into a profile of its base.

    What is kept is the sign of each weight's change and a few scales. The base must be the one the model was tuned from.
    A LoRA adapter (mlx-lm, PEFT) is compressed as if it were merged; `zen profile import` keeps one without loss.

    Examples:

    \b
      zen compress ./my-finetune --profile mine -m smollm2-135m
      zen compress ./my-finetune --profile mine --planes 2 --valid test.jsonl
    """
    from ..errors import DataError

    if valid is not None and not valid.exists():
        raise DataError("no such file or folder", path=valid)
    with _run_view.run_events(as_json) as tell:
        manager = _model.lazy_manager(model, tell)
        report = manager.compress_profile(
            profile, finetuned, scale=scale.value, planes=planes, valid=valid, replace=replace, on_event=tell
        )
    if as_json:
        _view.emit(report.to_dict())
        return
    if report.layers:
        _layers(report.layers)
    _run_view.show_summary(report)


def _layers(layers: list[LayerStats]) -> None:
    """How much of the change was kept: in all, and where least."""
    energy = sum(layer.delta_rms**2 * _count(layer) for layer in layers)
    kept = sum(layer.energy_kept * layer.delta_rms**2 * _count(layer) for layer in layers)
    _view.say(f"{len(layers)} changed tensors, {100 * kept / energy:.1f} % of the change's energy kept; least in")
    listing = _view.table("tensor", "energy kept", "cosine", "rms of the change", right=("energy kept", "cosine"))
    for layer in sorted(layers, key=lambda layer: layer.energy_kept)[:_WORST]:
        kept_text = f"{100 * layer.energy_kept:.1f} %"
        listing.add_row(_view.cell(layer.name), kept_text, f"{layer.cosine:.3f}", f"{layer.delta_rms:.2e}")
    _view.show(listing)


def _count(layer: LayerStats) -> int:
    count = 1
    for dim in layer.shape:
        count *= dim
    return count
