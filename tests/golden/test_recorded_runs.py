"""Runs that were recorded: the command line makes the same profiles today, and goes on with what it left half-way then."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden.recorded import COMMANDS, HOME, LATER, RUNS, STOPS, facts_of, made_with, make_room, run, zen

RECORDED = json.loads((RUNS / "facts.json").read_text())
SAME_ARITHMETIC = made_with() == RECORDED["made_with"]
"""Where not, bytes may differ for reasons that are no fault: then the numbers have to be near, and a skip says so."""
NEAR = 0.02
"""Relative. OpenBLAS's other kernels move the losses by less than 1e-5; 16-bit arithmetic rounds at 4e-3."""
MACHINE = {"time", "seconds", "memory_bytes", "peak_bytes"}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return make_room(tmp_path)


def near(found: Any, wanted: Any, where: str = "") -> None:
    """The same keys, texts and counts; sizes and losses within NEAR, agreements within four tokens of 40."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for name in wanted.keys() - {"retention"}:  # a quotient of small differences
            near(found[name], wanted[name], f"{where}.{name}")
    elif where.endswith("_perplexity"):
        assert found == pytest.approx(wanted, rel=10 * NEAR), where
    elif where.endswith("_agreement"):
        assert found == pytest.approx(wanted, abs=0.1), where
    elif isinstance(wanted, float) or where.endswith("file_bytes"):
        assert found == pytest.approx(wanted, rel=NEAR), where
    else:
        assert found == wanted, where


def check_same(name: str, profile: bytes, report: dict[str, Any]) -> None:
    """What the run `name` made is what it made when it was recorded."""
    found, wanted = facts_of(report), RECORDED["runs"][name]
    near(found, wanted)
    recorded = (RUNS / f"{name}.bitdelta").read_bytes()
    if found == wanted and profile == recorded:
        return
    if not SAME_ARITHMETIC:
        pytest.skip(f"other arithmetic than {RECORDED['made_with']}: numbers are near, bytes differ")
    assert found == wanted
    assert hashlib.sha256(profile).hexdigest() == hashlib.sha256(recorded).hexdigest()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_makes_the_recorded_bytes(name: str, room: Path) -> None:
    made = run(room, name)
    if name == "sign":
        check_log(room / "zen" / "logs" / "sign.jsonl", RUNS / "home" / "sign.jsonl")
    check_same(name, *made)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_interrupted_then_ends_in_the_recorded_bytes(name: str, room: Path) -> None:
    folder = room / "zen" / "runs" / name
    shutil.copytree(RUNS / "interrupted" / name, folder)
    put_home(folder / "run.json", room)
    # The profile is dated by its start, so the clock of the resumed run must not show.
    check_same(name, *run(room, name, "--resume", at=LATER))
    assert not folder.exists()


def test_a_run_of_a_version_without_the_base_s_function_ends_as_it_would_have(room: Path) -> None:
    """Its parts were shared out for a header without the two digests; so the header stays without them."""
    folder = room / "zen" / "runs" / "compress"
    shutil.copytree(RUNS.parent / "older" / "compress", folder)
    put_home(folder / "run.json", room)
    profile, _ = run(room, "compress", "--resume", at=LATER)
    if SAME_ARITHMETIC:
        assert profile == (RUNS.parent / "older" / "compress.bitdelta").read_bytes()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_interrupted_now_leaves_what_it_left_then(name: str, room: Path) -> None:
    done = zen(room, *COMMANDS[name].split(), "--profile", name, stop=STOPS[name])
    assert done.returncode == 130, done.stderr
    found, wanted = room / "zen" / "runs" / name, RUNS / "interrupted" / name
    put_home(wanted / "run.json", room, found.with_name("run.json"))
    now, then = (json.loads(path.read_text()) for path in (found / "run.json", found.with_name("run.json")))
    near(now, then)
    files = {path.name for path in wanted.iterdir()}
    assert {path.name for path in found.iterdir()} == files
    if "log.jsonl" in files:
        check_log(found / "log.jsonl", wanted / "log.jsonl")
    different = [
        file
        for file in files - {"run.json", "log.jsonl"}
        if (found / file).read_bytes() != (wanted / file).read_bytes()
    ]
    if SAME_ARITHMETIC:
        assert now == then
        assert not different


def put_home(path: Path, room: Path, to: Path | None = None) -> None:
    """Write the kept file `path` with the folder `room` for the home directory of then."""
    (to or path).write_text(path.read_text().replace(HOME, str(room)))


def check_log(path: Path, recorded: Path) -> None:
    """The same events with the same keys and, but for what the machine decides, values."""
    found, wanted = ([json.loads(line) for line in each.read_text().splitlines()] for each in (path, recorded))
    assert [list(entry) for entry in found] == [list(entry) for entry in wanted]
    for now, then in zip(found, wanted, strict=True):
        for entry in (now, then):
            for name in MACHINE & entry.keys():
                assert isinstance(entry.pop(name), int | float)
        if SAME_ARITHMETIC:
            assert now == then
