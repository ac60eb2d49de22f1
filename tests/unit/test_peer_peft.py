"""What scripts/peer_peft.py calls the same answers, without PEFT."""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "peer_peft.py"
OURS = [[(5, -0.1), (6, -0.2), (2, -0.3)]]
GAPS = [[1.0, 1e-5, 0.5]]
BARE = ([[(9, -1.0)]], [[1.0]])


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer_peft", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("theirs", "wrong"),
    [
        ([[5, -0.1], [6, -0.2001], [2, -0.3]], 0),
        ([[5, -0.1], [7, -0.2], [8, -0.3]], 0),  # where it differs ours was a near tie
        ([[5, -0.1], [6, -0.21], [2, -0.3]], 1),  # the same tokens, less likely
        ([[5, -0.1], [6, -0.2], [3, -0.3]], 1),
        ([[5, -0.1], [6, -0.2]], 1),
        ([[9, -1.0]], 1),
    ],
    ids=["same", "near tie", "other scale", "other token", "shorter", "the base's"],
)
def test_only_rounding_is_excused(
    peer: ModuleType, capsys: pytest.CaptureFixture[str], theirs: list[list[float]], wrong: int
) -> None:
    wanted = argparse.Namespace(gap=1e-3, tokens=3)
    assert peer.report("peft", [["PeftModel", "p", [theirs]]], {"": BARE, "p": (OURS, GAPS)}, wanted) == wrong
    assert "| p | PeftModel |" in capsys.readouterr().out


def test_an_adapter_that_does_nothing_is_noticed(peer: ModuleType) -> None:
    wanted = argparse.Namespace(gap=1e-3, tokens=3)
    answers, expected = [[[9, -1.0]]], {"": BARE, "p": BARE}
    assert peer.report("peft", [["PeftModel", "p", answers]], expected, wanted) == 1
    assert peer.report("peft", [["transformers", "", answers]], expected, wanted) == 0


def test_where_answers_part(peer: ModuleType) -> None:
    assert peer.compared(OURS, GAPS, [[[5, -0.1], [7, -9.0]]]) == (0, 0.0, [1e-5])
    assert peer.compared(OURS, GAPS, [[[5, -0.1]]])[2] == [math.inf]
