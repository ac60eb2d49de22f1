"""Memory that was freed between blocks in use is not the process's any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import os
from zen_mlx.memory.give_back import give_back, _trim
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
blocks = [os.urandom(50_000) for _ in range(2000)]
kept = blocks[1::2]
del blocks
before = resident()
give_back()
print(_trim() is not None, before - resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what a process holds")
def test_pages_between_blocks_in_use_go_back() -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, timeout=60)
    trims, freed = done.stdout.split()
    if trims == "True":
        assert int(freed) > 30_000_000
