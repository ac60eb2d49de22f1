"""zen eval: losses of a base and its profiles on data, and how much of a fine-tune's gain they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import _model, _run_view, _view
from ._options import AsJson, Model, complete_profile

_LEARNED = {
    "loss": "{:.4f}",
    "perplexity": "{:.2f}",
    "accuracy": "{:.1f} %",
    "retention": "{:.1f} %",
    "kl": "{:.4f}",
    "agreement": "{:.1f} %",
    "bleu": "{:.1f}",
    "chrf": "{:.1f}",
}
_ALWAYS = ("loss", "perplexity", "accuracy")
_HEADS = {"kl": "KL", "bleu": "BLEU", "chrf": "chrF"}


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
        str | None,
        typer.Option(
            metavar="FINETUNED",
            help="What to compare with: a model folder or repository, a LoRA adapter folder, a profile or its file.",
        ),
    ] = None,
    answers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Greedy answers to compare with the reference's: BLEU, chrF. Default: a few with --reference.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="T,...", help="Tasks of lm-eval, or task files: mmlu,gsm8k,./mine.yaml"),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Let tasks fetch data that is not here.")] = False,
    run_code: Annotated[bool, typer.Option("--run-code", help="Let tasks run code that the model writes.")] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N rows, and N documents of each task.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the losses.")] = None,
    heatmap: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw what each profile loses of each weight's change.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure loss and perplexity on data, of the base first and then of profiles.

    Loss is in nats per supervised token: every assistant turn and its end; accuracy is the percent of them that the model
    finds likeliest. With --reference: retention, the percent of the fine-tune's gain that a profile keeps; KL, in nats per
    token; agreement, the percent of tokens on which both choose the same; BLEU and chrF of answers.

    Examples:

    \b
      zen eval test.jsonl -p cynic
      zen eval test.jsonl -p cynic --reference ./my-finetune
      zen eval test.jsonl -p cynic --reference ./tuned --heatmap map.png
      zen eval test.jsonl -p cynic -p hacker --plot losses.png
      zen eval test.jsonl -p cynic --tasks gsm8k,./mine.yaml --limit 100
      zen eval test.jsonl -m smollm2-135m --limit 16 --json
    """
    from ..errors import DataError
    from ..eval import report as evaluation
    from ..eval.answers import INSTALL, have_scores
    from ..events import stages

    if not data.exists():
        raise DataError("no such file or folder", path=data)
    _check_png("plot", plot)
    _check_png("heatmap", heatmap)
    if answers is None and reference is not None and not as_json and not have_scores():
        _view.notice(f"without BLEU and chrF, which need: {INSTALL}")
    wanted = profiles or []
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    with _run_view.run_events(as_json) as tell:
        manager = _model.lazy_manager(_model.choose(model, wanted[0] if wanted else None), stages(tell))
        result = evaluation.evaluate(
            manager,
            data,
            wanted,
            reference=reference,
            limit=limit,
            answer_rows=answers,
            task_names=names,
            download=download,
            run_code=run_code,
            by_layer=heatmap is not None,
            on_event=tell,
        )
    _draw(result, plot, heatmap)
    if as_json:
        _view.emit(result)
        return
    _print(result)
    for made in (plot, heatmap):
        if made is not None:
            _view.notice(f"plot: {made}")


def _check_png(field: str, path: Path | None) -> None:
    from ..errors import ConfigError

    if path is not None and path.suffix.lower() != ".png":
        raise ConfigError("a plot is a PNG file", path=path, field=field, expected="FILE.png")


def _draw(result: dict[str, Any], plot: Path | None, heatmap: Path | None) -> None:
    if plot is not None:
        from ..eval.plot import plot_losses

        plot_losses(result, plot)
    if heatmap is not None:
        from ..eval.layer_errors import plot_layers

        errors = {row["profile"]: row["layer_error"] for row in result["results"] if "layer_error" in row}
        plot_layers(errors, heatmap, f"against {Path(result['reference']['path']).name}")


def _print(result: dict[str, Any]) -> None:
    data = result["data"]
    title = f"{result['model']} on {data['path']}: {data['examples']} examples, {data['tokens']} supervised tokens"
    rows = [*result["results"]]
    shown = [key for key in _LEARNED if key in _ALWAYS or any(row[key] is not None for row in rows)]
    heads = [_HEADS.get(key, key) for key in shown]
    listing = _view.table("", *heads, title=title, right=tuple(heads))
    if result["reference"]:
        rows.append({**dict.fromkeys(_LEARNED), "profile": "reference", "retention": 100.0, **result["reference"]})
    for row in rows:
        values = ["-" if row[key] is None else _LEARNED[key].format(row[key]) for key in shown]
        listing.add_row(*map(_view.cell, [row["profile"] or "base", *values]))
    _view.show(listing)
    if "tasks" in rows[0]:
        _print_tasks(rows)


def _print_tasks(rows: list[dict[str, Any]]) -> None:
    heads = [row["profile"] or "base" for row in rows]
    listing = _view.table("task", "metric", *heads, right=tuple(heads))
    for task, metrics in rows[0]["tasks"].items():
        for metric in (name for name in metrics if "_stderr" not in name):
            listing.add_row(*map(_view.cell, [task, metric, *(_value(row["tasks"][task], metric) for row in rows)]))
    _view.show(listing)


def _value(metrics: dict[str, float], metric: str) -> str:
    name, _, kind = metric.partition(",")
    error = metrics.get(f"{name}_stderr,{kind}" if kind else f"{name}_stderr")
    return f"{metrics[metric]:.4f}" + (f" ± {error:.4f}" if error is not None else "")
