"""scripts/soak for half a minute, on a small base: nobody gets another's answer, whatever others do beside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from few_layer_qwen3 import save_tiny_qwen3

ROOT = Path(__file__).resolve().parents[2]


def test_rough_clients_for_a_while(tmp_path: Path) -> None:
    base = save_tiny_qwen3(tmp_path / "tiny-qwen3")
    options = ["--minutes", "0.15", "--answers", "0", "--stops", "0", "--model", str(base)]
    done = subprocess.run(
        [sys.executable, "-m", "soaking", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "scripts", ROOT, ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {line[:70].strip(): float(line[70:]) for line in done.stdout.splitlines()}
    assert counts["whole answers"] > 30
    assert counts["left a stream"] > 5
    assert counts["malformed"] > 2
    assert counts["longest time half open, half a body, s"] < 10
