"""The command: all parts one after the other, then the counts."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

import zen_mlx  # noqa: F401  before any mlx: it brings the fast BLAS

from . import phases
from .counts import Counts
from .home import cases_of, make_home


def main() -> int:
    """0 when nothing went wrong."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="See scripts/soak --help.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--model", default="smollm2-135m")
    args = parser.parse_args()
    began, counts = time.monotonic(), Counts()

    def report(text: str) -> None:
        print(f"soak: {time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    def end(number: int, frame: object) -> None:
        print(counts.report(), flush=True)
        raise SystemExit(128 + number)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)

    with tempfile.TemporaryDirectory(prefix="zen-soak-") as folder:
        home = Path(folder)
        manager = make_home(home, args.model)
        cases = cases_of(manager, report)
        counts.knows(cases)
        if args.minutes:
            asyncio.run(phases.load(home, cases, args.streams, 60 * args.minutes, counts, report))
        if args.answers:
            asyncio.run(phases.shaped(home, args.answers, counts, report))
        phases.stops(home, args.stops, max(cases, key=lambda case: len(case.text)), counts, report)
        phases.programs(home, manager.model_name, args.stops, counts, report)
    print(counts.report())
    report("something went wrong" if counts.wrong else "all is well")
    return 1 if counts.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
