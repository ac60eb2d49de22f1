"""What two published scanners for secrets find in the made-up texts that our scrubber is measured on.

    python -m tests.scrubbing texts.json
    python -m venv peers && peers/bin/pip install credsweeper==1.19.5 detect-secrets==1.5.0
    peers/bin/python scripts/peer_secrets.py texts.json

CredSweeper reads one text file, because it finds nothing in prose that is given as strings; detect-secrets reads line by
line, without its two plugins for entropy, which report every word.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Text = tuple[str, str, str]  # kind, text, and the secret in it or nothing
ENTROPY = ("Base64HighEntropyString", "HexHighEntropyString")


def detect_secrets(texts: list[Text]) -> list[list[str]]:
    """What detect-secrets takes for secret in each text."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    names = [each.__name__ for each in get_mapping_from_secret_type_to_class().values()]
    with transient_settings({"plugins_used": [{"name": name} for name in names if name not in ENTROPY]}):
        return [
            [found.secret_value or "" for line in text.split("\n") for found in scan_line(line)] for _, text, _ in texts
        ]


def credsweeper(texts: list[Text], *options: str) -> list[list[str]]:
    """What CredSweeper takes for secret in each text: all texts are one file, with blank lines between them."""
    lines: list[str] = []
    text_of: dict[int, int] = {}
    for index, (_, text, _) in enumerate(texts):
        for line in text.split("\n"):
            lines.append(line)
            text_of[len(lines)] = index
        lines += ["", ""]
    found: list[list[str]] = [[] for _ in texts]
    for report in _reports("\n".join(lines), options):
        for place in report["line_data_list"]:
            if place["line_num"] in text_of:
                found[text_of[place["line_num"]]].append(place["value"])
    return found


def _reports(text: str, options: Iterable[str]) -> list[dict[str, list[dict[str, Any]]]]:
    with tempfile.TemporaryDirectory() as folder:
        source, report = Path(folder, "texts.txt"), Path(folder, "found.json")
        source.write_text(text, encoding="utf-8")
        program = [
            sys.executable,
            "-m",
            "credsweeper",
            "--path",
            str(source),
            "--save-json",
            str(report),
            "--no-stdout",
        ]
        subprocess.run([*program, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return list(json.loads(report.read_text(encoding="utf-8")))


def shares(texts: list[Text], found: list[list[str]]) -> tuple[Counter[str], Counter[str]]:
    """Texts by kind, and those of them that came out wrong: a secret not found, or something found where none is."""
    totals: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for (kind, _, secret), values in zip(texts, found, strict=True):
        totals[kind] += 1
        seen = any(secret in value or (value in secret and 2 * len(value) >= len(secret)) for value in values if value)
        wrong[kind] += not seen if secret else bool(values)
    return totals, wrong


def main() -> None:
    """Print the counts of each scanner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="what `python -m tests.scrubbing texts.json` wrote")
    texts = [tuple(each) for each in json.loads(parser.parse_args().texts.read_text(encoding="utf-8"))]
    peers: dict[str, Callable[[], list[list[str]]]] = {
        "detect-secrets": lambda: detect_secrets(texts),
        "credsweeper": lambda: credsweeper(texts),
        "credsweeper --ml_threshold 0": lambda: credsweeper(texts, "--ml_threshold", "0"),
    }
    for name, look in peers.items():
        totals, wrong = shares(texts, look())
        print(f"\n{name}")
        for kind, total in totals.items():
            print(f"{wrong[kind]:5} of {total:5} {kind}")


if __name__ == "__main__":
    main()
