"""The kernels' fixtures, and the table kernel x dtype x scale x backend at the end of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `parity`, `emulators.metal`, `emulators.cuda`

from parity import backends
from parity.table import TABLE, Table


@pytest.fixture(scope="session", autouse=True)
def _compiling(request: pytest.FixtureRequest) -> Iterator[None]:
    """Many emulated kernels and a second core: they compile from the other end at the same time."""
    emulated = [item for item in request.session.items if item.name.startswith(("test_case[metal", "test_case[cuda"))]
    worker = "PYTEST_XDIST_WORKER" in os.environ  # the other core has tests of its own
    if len(emulated) <= 20 or (os.cpu_count() or 1) == 1 or worker:
        yield
        return
    script = Path(__file__).resolve().parent / "warm.py"
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        yield
        process.terminate()


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[TABLE]
    if table.passed and config.get_verbosity() >= 0:
        terminalreporter.section("parity: cases that passed, f32/f16/bf16")
        for line in table.lines():
            terminalreporter.write_line(line)
