"""Compiles what the emulated cases need, last case first, into the emulators' cache; runs beside the suite.

The suite starts with the first case: the two meet in the middle, and a cold run takes half the time. Nothing depends on
it, so nothing is reported.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import zen_mlx  # noqa: F401, I001  before any mlx: it brings the fast BLAS
import mlx.core as mx
from emulators.simt import build

from parity import backends
from parity.cases import MERGES, covering, merge_cases
from parity.operands import merge_operands, operands
from zen_mlx.kernels import dispatch


def warm() -> None:
    build.Library.call = lambda self, *arguments: None  # type: ignore[method-assign]
    for backend in reversed(backends.GPUS):
        if backends.missing(backend, False):
            continue
        with backends.kernels(backend) as found:
            if f"{backend}.merge" in MERGES and found.merge is not None:
                for dtype, scale in merge_cases():
                    for base, sign in merge_operands(dtype, scale):
                        with suppress(Exception):
                            mx.eval(found.merge(base, sign))
            for case in reversed([c for c in covering() if c.kernel.startswith(backend)]):
                with suppress(Exception):
                    mx.eval(dispatch.run(found.launch[case.kernel.partition(".")[2]], *operands(case)))


if __name__ == "__main__":
    warm()
