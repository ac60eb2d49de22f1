"""Prints the tables of docs/data.md: what is left of planted secrets, and what is wrongly taken for one.

With a file's name, the texts are written into it for `scripts/peer_secrets.py`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from . import SEED, changed, leaks
from .negatives import harmless
from .positives import planted
from .prose import lines


def main(seed: int) -> None:
    secrets = planted(seed)
    missed = Counter(each.kind for each in secrets if leaks(each))
    _table("planted secrets", "left", Counter(each.kind for each in secrets), missed)
    texts = harmless(seed)
    wrong = Counter(kind for kind, text in texts if changed(text))
    _table("no secret", "changed", Counter(kind for kind, _ in texts), wrong)
    prose = lines(2000, seed)
    _table(
        "prose",
        "changed",
        Counter({"lines in ten languages": len(prose)}),
        Counter({"lines in ten languages": sum(map(changed, prose))}),
    )


def _table(title: str, bad: str, counts: Counter[str], faults: Counter[str]) -> None:
    rows = [f"| {kind} | {count} | {faults[kind]} |" for kind, count in counts.items()]
    sys.stdout.write("\n".join(["", f"| {title} | texts | {bad} |", "|---|---|---|", *rows, ""]))


def write(path: Path) -> None:
    secrets = [(each.kind, each.text, each.secret) for each in planted()]
    texts = [(kind, text, "") for kind, text in harmless()] + [("prose", line, "") for line in lines(2000)]
    path.write_text(json.dumps(secrets + texts), encoding="utf-8")


if len(sys.argv) > 1:
    write(Path(sys.argv[1]))
else:
    main(SEED)
