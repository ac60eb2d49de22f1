"""zen eval: the loss of a base and of profiles on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import _model, _run_view, _view
from ._options import AsJson, Model, complete_profile


def evaluate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file or folder of rows.")],
    model: Model = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option(
            "--profile", "-p", metavar="NAME", help="Profile to measure; repeatable.", autocompletion=complete_profile
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="FINETUNED", help="Full fine-tune to compare with: a folder or repository.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N rows.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the losses.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure loss and perplexity on data, of the base first and then of profiles.

    Loss is in nats per supervised token: every assistant turn and its end. With --reference, retention is the percent of
    the fine-tune's gain that a profile keeps.

    Examples:

    \b
      zen eval test.jsonl -p cynic -p hacker
      zen eval test.jsonl -p cynic --reference ./my-finetune --plot losses.png
      zen eval test.jsonl -m smollm2-135m --limit 16 --json
    """
    from ..errors import ConfigError, DataError
    from ..eval import report as evaluation

    if not data.exists():
        raise DataError("no such file or folder", path=data)
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError("a plot is a PNG file", path=plot, field="plot", expected="FILE.png")
    wanted = profiles or []
    with _run_view.run_events(as_json) as tell:
        manager = _model.lazy_manager(_model.choose(model, wanted[0] if wanted else None), tell)
        result = evaluation.evaluate(manager, data, wanted, reference=reference, limit=limit, on_event=tell)
    if plot is not None:
        from ..eval.plot import plot_losses

        plot_losses(result, plot)
    if as_json:
        _view.emit(result)
        return
    _print(result)
    if plot is not None:
        _view.notice(f"plot: {plot}")


def _print(result: dict[str, Any]) -> None:
    data = result["data"]
    title = f"{result['model']} on {data['path']}: {data['examples']} examples, {data['tokens']} supervised tokens"
    columns = ["", "loss", "perplexity"] + (["retention"] if result["reference"] else [])
    listing = _view.table(*columns, title=title, right=("loss", "perplexity", "retention"))
    rows = [*result["results"]]
    if result["reference"]:
        rows.append({"profile": "fine-tune", **result["reference"], "retention": 100.0})
    for row in rows:
        values = [row["profile"] or "base", f"{row['loss']:.4f}", f"{row['perplexity']:.2f}"]
        if result["reference"]:
            values.append("-" if row["retention"] is None else f"{row['retention']:.1f} %")
        listing.add_row(*map(_view.cell, values))
    _view.show(listing)
