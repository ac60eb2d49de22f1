"""zen bench: one document or tables on stdout, progress on stderr, bad requests refused before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.face import lost_of
from zen_mlx.bench import clock, peers, switch, tables
from zen_mlx.bench.synthetic import QWEN3_4B, dense_model, quantized_qwen3
from zen_mlx.cli import _bench_view
from zen_mlx.cli.main import main

TINY = {**QWEN3_4B, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 96}
TINY |= {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
KERNELS = ["bench", "kernels", "--quick", "--shape", "64+32x96", "--shape", "33x70", "--rows", "3,1"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_TURN_S", 0.001)
    for module in (clock, peers):
        monkeypatch.setattr(module, "working_set_bytes", lambda: 1 << 16)
    subjects = (
        ("tiny, 4-bit", "unmerged", quantized_qwen3, TINY),
        ("tiny, f32", "merged", dense_model, TINY),
    )
    monkeypatch.setattr(switch, "_SUBJECTS", subjects)


def test_every_table_has_a_view() -> None:
    assert set(_bench_view.VIEWS) == set(tables.TABLES)
    assert set(tables.PLOTS) <= set(tables.TABLES)


def test_kernels_as_json_names_the_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*KERNELS, "--json", "--plot", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert document["machine"]["name"]
    assert document["versions"]["mlx"]
    assert document["date"].endswith("+00:00")
    assert set(document["tables"]) == {"kernels"}
    assert {(row["shape"], row["m"]) for row in document["tables"]["kernels"]["launches"]} == {
        (shape, m) for shape in ("64+32x96", "33x70") for m in (1, 3)
    }
    assert (tmp_path / "kernels.png").exists()


def test_kernels_as_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(KERNELS) == 0
    out, err = capsys.readouterr()
    assert "64+32x96" in out
    assert "Fastest kernel" in out
    assert "copy bandwidth" in out
    assert "kernels" in err


def test_switch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "switch", "--quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert not lost_of("zen bench switch", document)
    _bench_view.show(document)
    out, _ = capsys.readouterr()
    assert "unmerged: tiny, 4-bit" in out
    assert "the switch itself" in out


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["nope"], "kernels, switch"),
        (["kernels", "--shape", "12"], "NxK"),
        (["kernels", "--rows", "0"], "M,M"),
        (["switch", "--rows", "1"], "kernels"),
        (["kernels", "--plot", __file__], "DIR"),
    ],
)
def test_bad_requests(args: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *args, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "ConfigError"
    assert found in error["expected"]
