"""A measurement in a new process, whose memory nothing has touched."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from ..errors import ZenError

_Result = TypeVar("_Result")


def in_new_process(work: Callable[..., _Result], *args: object) -> _Result:
    """work(*args) in a new process; what it raises is raised here. ZenError when the system ended that process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, work, args))
    process.start()
    sender.close()
    try:
        value, error = receiver.recv()
    except EOFError:
        process.join()
        found = f"exit code {process.exitcode}"
        raise ZenError("a measurement process ended early", found=found, hint="is there enough memory?") from None
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGINT)
        raise
    finally:
        process.join()
        receiver.close()
    if error is not None:
        raise error
    result: _Result = value
    return result


def _work(sender: Connection, work: Callable[..., object], args: tuple[object, ...]) -> None:
    # The parent may lose interest at any moment, which is no news for a reader of stderr.
    try:
        value, error = work(*args), None
    except BaseException as raised:
        value, error = None, raised
    with contextlib.suppress(BrokenPipeError):
        sender.send((value, error))
