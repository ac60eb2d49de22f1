"""zen bench: the tables of docs/benchmarks.md, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..bench import tables as registry
from ..bench.options import BELONGS, Options, parse_rows, parse_shape
from ..errors import ConfigError
from . import _bench_view, _view
from ._options import AsJson

_BUSY_LOAD = 0.5


def complete_table(incomplete: str) -> list[str]:
    """Tables that begin with `incomplete`."""
    return [name for name in registry.TABLES if name.startswith(incomplete)]


def bench(
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TABLE...]",
            help=f"Tables to measure: {', '.join(registry.TABLES)}. Default: all.",
            autocompletion=complete_table,
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes, rounds and layers.")] = False,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NxK",
            help="Shape for the kernels table; repeatable. N+N+NxK is one launch of several projections.",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="M,M,...", help="Numbers of rows for the kernels table.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, help="Layers of the checkpoints that encode writes; 36 are 16 GB.")
    ] = None,
    finetune: Annotated[
        str | None,
        typer.Option("--finetune", metavar="FOLDER", help="Full fine-tune of the embedded base, for paper's 6.2."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="What paper measures it on. Default: examples/cynic.valid.jsonl."),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option("-p", "--profile", metavar="NAME", help="Profile or .bitdelta for paper; repeatable."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Plain text for paper's perplexity.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw each table that has a plot there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: kernels, switching, encoding, the whitepaper's tables, and serving.

    Models have random weights of real dimensions. kernels: every sign kernel of this backend against what it rides on,
    then whole models. switch: switching and loading profiles, 5 GB of memory. encode: two random checkpoints on disk to
    a profile, beside reading them. paper: the whitepaper's tables, with its own numbers; 6.2 needs --finetune. serve: many
    profiles in one batch, by number of streams, and their memory. Other work on the machine shows in the numbers.

    Examples:

    \b
      zen bench kernels
      zen bench kernels --quick --plot plots
      zen bench kernels --shape 4096x4096 --rows 1,8
      zen bench switch --json
      zen bench encode --layers 36
      zen bench paper --finetune cynic-finetune --plot plots
      zen bench serve --plot plots
    """
    names = registry.choose(tables or [])
    options = Options(
        quick=quick,
        shapes=tuple(map(parse_shape, shapes)) if shapes else None,
        rows=parse_rows(rows) if rows is not None else None,
        layers=layers,
        profiles=tuple(profiles or ()),
        finetune=finetune,
        data=data,
        text=text,
    )
    for field, table in BELONGS.items():
        if getattr(options, field) and table not in names:
            option = {"shapes": "--shape", "profiles": "--profile"}.get(field, f"--{field}")
            raise ConfigError(
                f"this belongs to the {table} table", field=option, expected=table, found=", ".join(names)
            )
    if plot is not None and plot.exists() and not plot.is_dir():
        raise ConfigError("plots go into a folder", path=plot, field="--plot", expected="DIR")
    with _view.progress(as_json) as report:
        document = registry.run(names, options, report)
    load = document["machine"]["load"]  # before the first measurement
    if load > _BUSY_LOAD and not as_json:
        _view.notice(f"other work was running (load {load:.1f}): the numbers are lower than this machine's best")
    files = []
    for name in names:
        if plot is not None and name in registry.PLOTS:
            file = plot / f"{name}.png"
            registry.PLOTS[name](document, file)
            files += [file] if file.exists() else []
    if as_json:
        _view.emit(document)
        return
    _bench_view.show(document)
    for file in files:
        _view.notice(f"plot: {file}")
