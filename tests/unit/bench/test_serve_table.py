"""The serve table on tiny models: every part of it, what it adds up, and the memory of profiles against their files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from zen_mlx.adapter.resident import Resident
from zen_mlx.adapter.resident_set import ResidentSet
from zen_mlx.adapter.slots import form_of
from zen_mlx.adapter.targets import targets
from zen_mlx.bench import serve_loading, serve_memory, serve_peers, serve_rate
from zen_mlx.bench.decode import Subject
from zen_mlx.bench.paper_sizes import skeleton
from zen_mlx.bench.serve_profiles import KINDS, NoText, endless, prompts
from zen_mlx.bench.serve_table import plot
from zen_mlx.bench.synthetic import QWEN3_4B, SMOLLM2_135M, dense_model, quantized_qwen3, twin
from zen_mlx.cli import _bench_view
from zen_mlx.cli.main import main
from zen_mlx.engine.batch import Batch
from zen_mlx.errors import ZenError
from zen_mlx.format.read import read
from zen_mlx.format.write import write

TINY = {"hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 512, "vocab_size": 96, "head_dim": 64}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
FEW_LAYERS = {**SMOLLM2_135M, "num_hidden_layers": 2}
make = partial(dense_model, {**SMOLLM2_135M, **TINY})


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (serve_rate, serve_loading):
        monkeypatch.setattr(module, "subjects", lambda: [Subject("tiny", make, 0, True)])
    monkeypatch.setattr(serve_memory, "SMOLLM2_135M", {**SMOLLM2_135M, **TINY})
    monkeypatch.setattr(serve_memory, "in_new_process", lambda work, *args: work(*args))


@pytest.mark.usefixtures("_tiny")
def test_the_table_as_json_as_text_and_as_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--quick", "--json", "--plot", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["machine"]["name"]
    table = document["tables"]["serve"]
    assert (tmp_path / "serve.png").read_bytes().startswith(b"\x89PNG")
    found = {(row["kind"], row["streams"], row["side"]) for row in table["rate"]}
    assert found == {
        (kind, streams, side)
        for kind in KINDS
        for streams in ((1, 8) if kind == "sign" else (8,))
        for side in ("bare", "base", "one", "eight")
    }
    for row in table["rate"]:
        assert row["tokens_per_s"] > 0 < row["first_token_s"]
        assert 0 < row["token_s"] < 1
        assert (row["over_bare"] == 1) == (row["side"] == "bare")
        assert (row["over_one"] is None) == (row["side"] != "eight")
    assert [row["kind"] for row in table["loading"]] == ["sign", "factor"]
    assert table["peers"] is None
    document["tables"]["serve"]["peers"] = PEERS
    _bench_view.show(document)
    shown = capsys.readouterr().out
    for text in ("8 profiles", "slots / files", "5.2", "computed, not measured", "12000 GB", "mlx_lm.server", "20 ms"):
        assert text in shown
    plot(document, tmp_path / "again.png")


PEERS = {
    "processes": {
        "model": "tiny",
        "models": 8,
        "tokens_per_s": 9.0,
        "process_bytes": 1,
        "all_bytes": 8,
        "computed": True,
    },
    "servers": [
        {"server": name, "tokens": 16, "new_s": 1.0, "same_s": 1.0, "other_s": 2.0, "eight_s": 8.0}
        for name in ("mlx_lm.server, adapters", "zen, one batch")
    ],
}


@pytest.mark.usefixtures("_tiny")
def test_a_model_that_does_not_fit_is_skipped_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (serve_rate, serve_loading):
        monkeypatch.setattr(module, "memory_bytes", lambda: 0)
        monkeypatch.setattr(module, "subjects", lambda: [Subject("large", make, 6_000_000_000, True)])
    (row,) = serve_rate.measure_rate(True, lambda *_: None)
    assert row["skipped"] == "needs 10.0 GB"
    assert serve_loading.measure_loading(True, lambda *_: None) == []
    _bench_view._serve_view._rate([row])


@pytest.mark.parametrize(("kind", "most"), [("sign", 1.05), ("factor", 1.30)])
def test_slots_of_twenty_profiles_take_little_more_than_their_files(kind: str, most: float) -> None:
    """Of the embedded base's widths."""
    one, *_, row = serve_memory.memory_rows(FEW_LAYERS, kind, (1, 20))
    assert row["profiles"] == 20
    assert row["file_bytes"] == pytest.approx(20 * one["file_bytes"], rel=0.01)
    assert row["slot_bytes"] == 20 * serve_memory.slot_bytes(kind, targets(skeleton(FEW_LAYERS)))
    assert 0.95 < row["ratio"] <= most


def test_memory_is_that_of_the_slots(tmp_path: Path) -> None:
    """A set that holds three of four slots has memory for four."""
    model = make()
    residents, total = ResidentSet(model, 4), 0
    for index in range(3):
        write(KINDS["sign"](model, index), tmp_path / "a")
        total += (tmp_path / "a").stat().st_size
        for _ in residents.load(str(index), Resident.from_profile(read(tmp_path / "a"))):
            pass
    rows = serve_memory.memory_rows({**SMOLLM2_135M, **TINY}, "sign", (3, 4))
    assert [row["slot_bytes"] for row in rows] == [residents.nbytes, residents.nbytes]
    assert rows[0]["file_bytes"] == total


def test_hundreds_of_people_on_one_server() -> None:
    """The base in f16 is 2 bytes for each of its 4.02 billion weights; a profile of it is a bit a weight and scales."""
    found = serve_memory.compute_people()
    assert found["computed"]
    rows = {(row["kind"], row["people"]): row for row in found["rows"]}
    hundred = rows["sign", 100]
    assert hundred["base_bytes"] == pytest.approx(8.04e9, rel=0.01)
    assert hundred["profiles_bytes"] == pytest.approx(100 * 3_633_315_840 / 8, rel=0.05)
    assert hundred["copies_bytes"] == 100 * hundred["base_bytes"]
    assert rows["factor", 100]["profiles_bytes"] < 1.3 * rows["factor", 100]["file_bytes"]
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["copies_bytes"] / (row["base_bytes"] + row["profiles_bytes"]))


def test_profiles_of_own_ranks_share_hardly_a_form() -> None:
    model = skeleton(FEW_LAYERS)

    def same(kind: str) -> int:
        first, second = (Resident.from_profile(KINDS[kind](model, index)).tensors for index in range(2))
        return sum(form_of(first[name].parts) == form_of(second[name].parts) for name in first)

    assert same("sign") == same("factor") == len(targets(model))
    assert same("factor, own ranks") < len(targets(model)) / 4


@pytest.mark.parametrize("build", [make, partial(quantized_qwen3, {**QWEN3_4B, **TINY})])
def test_the_bare_base_has_the_arrays_but_not_the_layers(build: Any) -> None:
    model = build()
    bare = twin(model)
    arrays, own = dict(tree_flatten(model.parameters())), dict(tree_flatten(bare.parameters()))
    assert arrays.keys() == own.keys()
    assert all(arrays[name] is own[name] for name in arrays)
    mixed = Resident.from_profile(KINDS["sign"](model, 0))
    residents = ResidentSet(model, 1)
    list(residents.load("0", mixed))
    assert type(model.layers[0].mlp.up_proj) is not type(bare.layers[0].mlp.up_proj)
    residents.close()
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(model(tokens), bare(tokens))


def test_no_token_ends_an_answer() -> None:
    """120 tokens out of 96: whichever would end one is among them."""
    model = make()
    batch = Batch(model, cast(Any, NoText()), streams=2)
    rows = [batch.add(endless(ids)) for ids in prompts(2, 96)]
    while min(len(row.tokens) for row in rows) < 120:
        batch.step()
    assert [row.finish for row in rows] == [None, None]
    assert prompts(2, 96) == prompts(3, 96)[:2] != prompts(2, 95)


def test_gaps_are_those_that_end_in_the_time() -> None:
    row = serve_loading._Timed("a", [1])
    row.times = [1.0, 2.0, 4.0, 7.0]
    assert serve_loading._gaps([row], 2.0, 4.0) == [2.0]
    assert serve_loading._gaps([row, row], 2.5, 9.0) == [2.0, 3.0, 2.0, 3.0]


def test_requests_by_the_profile_before() -> None:
    asked: list[int] = []
    row = serve_peers.server_row("one", lambda profile, _: asked.append(profile) or 16)  # type: ignore[func-returns-value]
    assert asked[:2] == [0, 1]
    assert asked[2:5] == [1, 1, 1]
    assert asked[5:11] == [0, 1, 0, 1, 0, 1]
    assert sorted(asked[11:19]) == [0] * 4 + [1] * 4
    assert row["same_s"] >= 0
    with pytest.raises(ZenError, match="ended early"):
        serve_peers.server_row("short", lambda *_: 15)
