"""zen compress: a fine-tuned model -> a profile."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import CompressOptions, ScaleName
from . import _model, _run_view, _view
from ._options import AsJson, Model, Replace, option

if TYPE_CHECKING:
    from ..encode.layer_stats import LayerStats
    from ..eval.sweep import SweepPoint

_WORST = 5


def compress(
    finetuned: Annotated[
        str, typer.Argument(metavar="FINETUNED", help="A model folder, a hub repository, or a LoRA adapter folder.")
    ],
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="Name of the new profile.")],
    model: Model = None,
    bits_per_weight: Annotated[float | None, option(CompressOptions, "bits_per_weight")] = None,
    scale: Annotated[ScaleName | None, option(CompressOptions, "scale")] = None,
    planes: Annotated[int | None, option(CompressOptions, "planes")] = None,
    distill: Annotated[
        list[Path] | None,
        typer.Option(metavar="DATA", help="Train scales and factors to answer this as the fine-tune does. Repeatable."),
    ] = None,
    steps: Annotated[int, option(CompressOptions, "steps")] = CompressOptions.steps,
    babble: Annotated[int, option(CompressOptions, "babble")] = CompressOptions.babble,
    labels: Annotated[float, option(CompressOptions, "labels")] = CompressOptions.labels,
    mse: Annotated[float, option(CompressOptions, "mse")] = CompressOptions.mse,
    seed: Annotated[int, option(CompressOptions, "seed")] = CompressOptions.seed,
    valid: Annotated[Path | None, typer.Option(metavar="DATA", help="Data to measure the losses on.")] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Save nothing: measure --valid at many sizes, print the table and draw the curve."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished distillation.")] = False,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Turn a fine-tuned model into a profile of its base.

    What is kept is the sign of each weight's change and a few scales; with --bits-per-weight, what keeps most at that size:
    factors of low rank, signs, or both, chosen layer by layer. The base must be the one the model was tuned from.
    A LoRA adapter (mlx-lm, PEFT) is compressed as if it were merged; `zen profile import` keeps one without loss.
    With --distill layers are weighed by your text, and what is stored is trained to answer as the fine-tune does.

    Examples:

    \b
      zen compress ./my-finetune --profile mine -m smollm2-135m
      zen compress ./my-finetune --profile small --bits-per-weight 0.33
      zen compress ./my-finetune --profile mine --distill train.jsonl
      zen compress ./my-finetune --profile mine --planes 2 --valid test.jsonl
      zen compress ./my-finetune --profile any --valid test.jsonl --sweep curve.png
    """
    from ..errors import ConfigError, DataError
    from ..events import stages

    for path in (*(distill or ()), *([valid] if valid is not None else ())):
        if not path.exists():
            raise DataError("no such file or folder", path=path)
    if sweep is not None and valid is None:
        raise ConfigError("a curve needs data to measure on", field="sweep", expected="--valid DATA", found=None)
    options: dict[str, Any] = {
        "scale": scale,
        "planes": planes,
        "bits_per_weight": bits_per_weight,
        "steps": steps,
        "labels": labels,
        "mse": mse,
        "babble": babble,
        "seed": seed,
    }
    with _run_view.run_events(as_json) as tell:
        manager = _model.lazy_manager(model, stages(tell))
        if sweep is not None:
            from ..eval.sweep import sweep_rates

            points = sweep_rates(manager, finetuned, valid, distill, sweep, CompressOptions(**options), tell)
        else:
            report = manager.compress_profile(
                profile, finetuned, text=distill, valid=valid, resume=resume, replace=replace, on_event=tell, **options
            )
    if sweep is not None:
        _curve(points, sweep, as_json)
    elif as_json:
        _view.emit(report.to_dict())
    else:
        if report.layers:
            _layers(report.layers)
        _run_view.show_summary(report)


def _curve(points: list[SweepPoint], picture: Path, as_json: bool) -> None:
    """The measured points as a table, or one document."""
    if as_json:
        _view.emit({"points": [point.to_dict() for point in points], "plot": str(picture)})
        return
    listing = _view.table(
        "kind", "bits/weight", "size", "loss", "retention", right=("bits/weight", "size", "loss", "retention")
    )
    for point in points:
        listing.add_row(
            point.kind,
            f"{point.bits_per_weight:.3f}",
            _view.size(point.file_bytes),
            f"{point.loss:.4f}",
            "" if point.retention is None else f"{point.retention:.1f} %",
        )
    _view.show(listing)
    _view.say(f"drawn in {picture}")


def _layers(layers: list[LayerStats]) -> None:
    """How much of the change was kept: in all, and where least."""
    energies = [layer.delta_rms**2 * math.prod(layer.shape) for layer in layers]
    energy = sum(energies)
    kept = sum(layer.energy_kept * each for layer, each in zip(layers, energies, strict=True))
    _view.say(f"{len(layers)} changed tensors, {100 * kept / energy:.1f} % of the change's energy kept; least in")
    listing = _view.table("tensor", "energy kept", "cosine", "rms of the change", right=("energy kept", "cosine"))
    for layer in sorted(layers, key=lambda layer: layer.energy_kept)[:_WORST]:
        kept_text = f"{100 * layer.energy_kept:.1f} %"
        listing.add_row(_view.cell(layer.name), kept_text, f"{layer.cosine:.3f}", f"{layer.delta_rms:.2e}")
    _view.show(listing)
