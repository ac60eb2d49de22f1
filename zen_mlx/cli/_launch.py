"""Runs under MLX's launcher: their ranks share one terminal, and rank 0 speaks for all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import typer

from ..errors import ZenError
from . import _errors


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Another rank than 0 prints nothing in the block, and ends it with rank 0's exit code.

    It speaks, on stderr, only of an error that rank 0 cannot know. A process that was not launched is left alone.
    """
    from ..train import distributed

    place = distributed.launched()
    if place is None or place[1] == 0:
        yield
        return
    said = sys.stderr
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    except KeyboardInterrupt:
        distributed.process_group().outlast_lead()
        raise typer.Exit(_errors.INTERRUPTED) from None
    except Exception as error:
        if isinstance(error, typer.Exit):
            raise
        team = distributed.process_group() if distributed.process_group.cache_info().currsize else None
        if team is not None and team.error_is_known:
            team.outlast_lead()
        else:
            said.write(f"zen: rank {place[1]}: {error}\n")
        raise typer.Exit(error.exit_code if isinstance(error, ZenError) else _errors.FAILED) from error
