"""The memory plan of a run as a table, and sizes of memory as they are typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _view

if TYPE_CHECKING:
    from ..train.memory_estimate import FittedOptions

_UNITS = {"": 1, "B": 1, "MB": 10**6, "GB": 10**9, "GIB": 2**30}


def limit_bytes(text: str | None) -> int | None:
    """`12000000000`, `12GB` or `12 GiB` in bytes."""
    from ..errors import ConfigError

    if text is None:
        return None
    number = text.strip().rstrip("GIBMgibm ")
    unit = text.strip()[len(number) :].strip().upper()
    try:
        size = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigError("bad memory limit", field="memory_limit", expected="such as 12GB", found=text)
    return size


def document(fitted: FittedOptions) -> dict[str, Any]:
    """The document of `zen train --dry-run --json`."""
    return {
        **fitted.plan.to_dict(),
        "limit_bytes": fitted.limit_bytes,
        "limit_is": fitted.source,
        "fits": fitted.fits,
        "settings_that_fit": list(fitted.others),
    }


def show(fitted: FittedOptions) -> None:
    """Print the plan, what may be used, and what to change where that is less."""
    from rich.table import Table

    from ..memory.estimate import PROGRAM_BYTES

    plan = fitted.plan
    batch = plan.micro_batch
    table = Table("memory", "size", title=None)
    table.columns[1].justify = "right"
    for name, size in plan.items:
        table.add_row(name, _view.size(size))
    table.add_section()
    for name, size in plan.phases:
        table.add_row(name, _view.size(size))
    table.add_section()
    if plan.cache_bytes:
        table.add_row("MLX's cache, at most", _view.size(plan.cache_bytes))
    table.add_row("the program", _view.size(PROGRAM_BYTES))
    table.add_row("needed", _view.size(plan.total_bytes))
    table.add_row(f"may be used ({fitted.source})", _view.size(fitted.limit_bytes))
    _view.show(table)
    _view.say(
        f"Largest micro-batch: {batch.rows} rows of {batch.length} tokens, {batch.labels} supervised; "
        f"gradient checkpointing {'on' if plan.grad_checkpoint else 'off'}"
    )
    if fitted.fits:
        _view.say("It fits. Nothing was trained.")
        return
    _view.say("It does not fit. What does:")
    for text in fitted.others:
        _view.say(f"  {text}")
