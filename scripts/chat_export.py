"""An invented WhatsApp export of N messages, and what a preview of it costs.

python scripts/chat_export.py 1000000 /tmp/chat.txt          writes the file
python scripts/chat_export.py measure /tmp/chat.txt          seconds and peak memory of a preview, in a new process
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

_WORDS = "see you at the station when it rains bring bread and two of the small lamps"


def main() -> None:
    """Write the file, or measure a preview of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", metavar="N|measure", help="messages to write, or measure")
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    if args.what == "measure":
        _measure(args.file)
    else:
        _write(int(args.what), args.file)


def _write(messages: int, path: Path) -> None:
    moment, stock = datetime(2015, 1, 1), _WORDS.split()
    with path.open("w", encoding="utf-8") as out:
        for number in range(messages):
            moment += timedelta(seconds=7 * (number % 97))
            name = ("Anna", "Kim Doe", "Bo")[number * number % 7 % 3]
            words = " ".join(stock[(number * step) % len(stock)] for step in range(3, 3 + number % 9))
            out.write(f"{moment.day}/{moment.month}/{moment:%y, %H:%M} - {name}: {words} {number}\n")


def _measure(path: Path) -> None:
    command = [sys.executable, "-m", "zen_mlx", "data", "preview", str(path), "--me", "Kim Doe", "--json"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{time.perf_counter() - began:.1f} s, {peak_kib / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
