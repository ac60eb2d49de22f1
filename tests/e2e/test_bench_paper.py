"""zen bench paper and encode, end to end: one document, every part of the whitepaper's tables in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.face import lost_of
from zen_mlx.bench import encoding as bench_encode
from zen_mlx.bench import paper_quality, paper_rate
from zen_mlx.bench.paper_quality import DOMAINS
from zen_mlx.bench.paper_rate import total_error, with_curves
from zen_mlx.bench.synthetic import QWEN3_4B
from zen_mlx.cli import _bench_view
from zen_mlx.cli.main import main
from zen_mlx.encode.layer_stats import LayerStats

TINY = {**QWEN3_4B, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128, "vocab_size": 96}
TINY |= {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture
def fine_tune(with_embedded_base: Path, tmp_path: Path) -> Path:
    """The embedded base with a small step of two of its layers."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    for file in with_embedded_base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(with_embedded_base / "model.safetensors")
    rng = np.random.default_rng(1)
    for name in ("model.layers.3.self_attn.q_proj.weight", "model.layers.9.mlp.down_proj.weight"):
        weights[name] = weights[name] + (rng.standard_normal(weights[name].shape) * 1e-3).astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def test_paper_as_json(
    fine_tune: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (paper_quality, paper_rate):
        monkeypatch.setattr(module, "_QUICK_ROWS", 1)  # its perplexity falls by a quarter or more
    plots = tmp_path / "plots"
    args = ["bench", "paper", "--quick", "--finetune", str(fine_tune), "--plot", str(plots), "--json"]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert not lost_of("zen bench paper", document)
    paper = document["tables"]["paper"]
    assert set(paper) >= {"sizes", "quality", "latency", "rate", "memory", "perplexity"}
    assert {row["model"] for row in paper["sizes"]} == {"Qwen3-0.6B", "Qwen3-4B", "Qwen2.5-7B", "Qwen3-30B-A3B"}
    base, *profiles = paper["perplexity"]["rows"]
    assert base["profile"] is None
    assert [each["profile"] for each in profiles] == list(DOMAINS)
    assert all(base["loss"] != each["loss"] for each in profiles)
    assert paper["perplexity"]["tokens"] == paper["perplexity"]["window"] - 1
    for row in paper["quality"]["rows"][: len(DOMAINS)]:
        assert row["data"] == f"{row['profile']}.valid.jsonl"
        assert row["profile_perplexity"] < row["base"]
    for row in paper["latency"]:
        assert row["load_s"] > 0 < row["switch_s"]
    unmerged, merged = paper["memory"]
    assert merged["growth_bytes"] > 100e6 > unmerged["growth_bytes"] > unmerged["file_bytes"] / 2
    assert {row["codec"] for row in paper["rate"]["rows"]} == set(list(paper_rate.CODECS)[:2])
    for row in paper["rate"]["rows"]:
        assert 0 < row["error"] < 1
    assert (plots / "paper.png").stat().st_size > 10_000
    _bench_view.show(document)
    shown = capsys.readouterr().out
    for part in ("4.1", "4.2", "4.3", "6.2", "Appendix B", "107x"):
        assert part in shown


def test_encode_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_encode, "QWEN3_4B", TINY)
    monkeypatch.setattr(bench_encode, "_POOL", (1 << 16) + 345)
    assert main(["bench", "encode", "--layers", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert not lost_of("zen bench encode", document)
    found = document["tables"]["encode"]
    assert found["layers"] == 2
    assert found["pair_bytes"] > 4 * found["parameters"]
    assert found["share"] > 0 < found["peak_bytes"]
    _bench_view.show(document)
    assert "speed of encoding" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "table"), [("--layers", "encode"), ("--text", "paper"), ("--finetune", "paper")])
def test_options_belong_to_a_table(option: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "switch", option, "3", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["expected"] == table


def test_the_paper_s_curves() -> None:
    rows = [{"ratio_fp32": ratio, "error": error} for ratio, error in ((107.0, 0.9), (10.0, 0.3))]
    first, last = with_curves(rows)
    assert first["paper_error"] == first["error"] == 0.3
    assert last["paper_error"] == pytest.approx(0.3 * (10 / 107) ** 0.5)
    assert last["paper_retention"] == pytest.approx(93)


def test_errors_add_by_energy() -> None:
    layers = [
        LayerStats("a", (10, 10), 1.0, 0.5, 0.75, 0.9, 1),
        LayerStats("b", (20, 10), 2.0, 0.0, 1.0, 1.0, 1),
    ]
    assert total_error(layers) == pytest.approx((100 * 0.25 / (100 + 800)) ** 0.5)
