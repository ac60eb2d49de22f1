"""The kernels' fixtures, and the table kernel x dtype x scale x backend at the end of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `parity`, `metal_emulator`, `cuda_emulator`

from parity import backends
from parity.table import TABLE, Table

WARM: pytest.StashKey[subprocess.Popen] = pytest.StashKey()


@pytest.fixture(scope="module")
def use() -> Iterator[Callable[[str, bool], backends.Kernels]]:
    """use(backend, hardware) -> its kernels, patched in once a module; skips the test where they cannot run."""
    with ExitStack() as stack:
        found: dict[tuple[str, bool], backends.Kernels] = {}

        def use(backend: str, hardware: bool = False) -> backends.Kernels:
            reason = backends.missing(backend, hardware)
            if reason is not None:
                pytest.skip(f"{backend}: {reason}")
            if (backend, hardware) not in found:
                found[backend, hardware] = stack.enter_context(backends.kernels(backend, hardware))
            return found[backend, hardware]

        yield use


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Many emulated kernels and a second core: compile them from the other end at the same time."""
    emulated = [item for item in session.items if item.name.startswith(("test_case[metal", "test_case[cuda"))]
    if len(emulated) > 20 and (os.cpu_count() or 1) > 1 and not session.config.option.collectonly:
        script = Path(__file__).resolve().parent / "warm.py"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        session.config.stash[WARM] = subprocess.Popen([sys.executable, str(script)], **quiet)


def pytest_sessionfinish(session: pytest.Session) -> None:
    process = session.config.stash.get(WARM, None)
    if process is not None:
        process.terminate()
        process.wait()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[TABLE]
    if table.passed:
        terminalreporter.section("parity: cases that passed, f32/f16/bf16")
        for line in table.lines():
            terminalreporter.write_line(line)
