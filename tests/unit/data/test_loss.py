"""Nats per token: logits only at labels equal the full ones, and the mean equals a plain computation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from zen_mlx.base.load import load_model, load_tokenizer
from zen_mlx.data import loss as loss_module
from zen_mlx.data.batches import collate
from zen_mlx.data.examples import load_files
from zen_mlx.data.loss import batch_arrays, logits_at_labels, mean_loss, nats, nats_at_labels
from zen_mlx.data.tokens import TokenRow, tokenize

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def tied(folder: Path, to: Path) -> Path:
    """A copy of the model that computes its logits with the embedding."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = mx.load(str(to / "model.safetensors"))
    weights.pop("lm_head.weight")
    mx.eval(weights)
    mx.save_safetensors(str(to / "model.safetensors"), weights, metadata={"format": "mlx"})
    return to


@pytest.fixture(params=["untied", "tied"])
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Any:
    folder = tiny_model if request.param == "untied" else tied(tiny_model, tmp_path / "tied")
    model = load_model(folder)
    model.set_dtype(mx.float32)
    return model


def rows_of(count: int) -> list[TokenRow]:
    rng = np.random.default_rng(1)
    rows = []
    for size in rng.integers(3, 60, count):
        marks = tuple(bool(i and (i % 3 or i == size - 1)) for i in range(size))
        rows.append(TokenRow(tuple(int(t) for t in rng.integers(0, 250, size)), marks))
    return rows


def plain(model: Any, rows: list[TokenRow]) -> tuple[float, int]:
    """Sum of nats and number of tokens in float64, one row at a time, with all logits."""
    total, tokens = 0.0, 0
    for row in rows:
        logits = np.array(model(mx.array([row.ids])).astype(mx.float32))[0].astype(np.float64)
        top = logits.max(-1, keepdims=True)
        log = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        for t in range(1, len(row.ids)):
            if row.supervised[t]:
                total -= log[t - 1, row.ids[t]]
                tokens += 1
    return total, tokens


def test_logits_only_at_labels_equal_the_full_ones(model: Any) -> None:
    batch = collate(rows_of(5))
    ids, positions, _, _ = batch_arrays(batch)
    full = model(ids).reshape(-1, 258)[positions]
    names = [name for name, _ in model.named_modules()]
    with logits_at_labels(model) as forward:
        some = forward(ids, positions)
    assert some.shape == (len(batch.positions), 258)
    np.testing.assert_allclose(np.array(some), np.array(full), rtol=1e-5, atol=1e-6)
    assert [name for name, _ in model.named_modules()] == names
    assert mx.array_equal(model(ids).reshape(-1, 258)[positions], full), "the head is its own again"


def test_the_head_comes_back_after_an_error(model: Any) -> None:
    before = dict(model.named_modules())
    with pytest.raises(RuntimeError, match="stop"), logits_at_labels(model):
        raise RuntimeError("stop")
    assert all(dict(model.named_modules())[name] is module for name, module in before.items())


def supervised(row: TokenRow) -> list[int]:
    return [t for t, counts in enumerate(row.supervised) if counts]


def test_mean_loss_equals_the_plain_computation(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(40)
    seen: list[tuple[int, int]] = []
    total, tokens = plain(model, rows)
    found = mean_loss(model, rows, lambda done, of: seen.append((done, of)))
    assert found.tokens == tokens == sum(row.targets for row in rows)
    assert found.nats == pytest.approx(total / tokens, rel=1e-5)
    assert seen[-1] == (40, 40)
    first = [
        int(mx.argmax(model(mx.array([row.ids[:t]]))[0, -1])) == row.ids[t] for row in rows for t in supervised(row)
    ]
    assert (found.agreed, found.agreement) == (sum(first), sum(first) / tokens)
    monkeypatch.setattr(loss_module, "LOGIT_BYTES", 1)
    pieces = mean_loss(model, rows)
    assert (pieces.nats, pieces.agreed) == (pytest.approx(total / tokens, rel=1e-5), found.agreed), "64 labels a piece"
    assert mean_loss(model, []).tokens == 0


def test_chunks_of_logits_have_the_value_and_gradient_of_all_of_them(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = batch_arrays(collate(rows_of(12)))

    def gradient(loss: Any) -> tuple[float, dict[str, mx.array]]:
        value, tree = nn.value_and_grad(model, loss)(*arrays)
        return value.item(), dict(tree_flatten(tree))

    model.freeze()
    model.layers[0].unfreeze()
    with logits_at_labels(model) as forward:
        value, slopes = gradient(lambda i, p, y, w: nats(forward(i, p), y, w))
    for most, exact in ((2**27, True), (1, False)):
        monkeypatch.setattr(loss_module, "LOGIT_BYTES", most)
        with nats_at_labels(model) as loss:
            found, chunked = gradient(loss)
        assert found == pytest.approx(value, rel=1e-6)
        for name, slope in slopes.items():
            error = mx.abs(chunked[name] - slope).max().item()
            assert error <= (1e-7 if exact else 1e-5) * mx.abs(slope).max().item(), name


def test_logits_that_change_after_the_head_are_taken_as_the_model_makes_them(model: Any) -> None:
    arrays = batch_arrays(collate(rows_of(5)))
    with logits_at_labels(model) as forward:
        wanted = nats(mx.tanh(forward(*arrays[:2])), *arrays[2:]).item()

    class Capped(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def __call__(self, ids: mx.array) -> mx.array:
            return mx.tanh(self.inner(ids))

    with nats_at_labels(Capped(model)) as loss:
        assert loss(*arrays).item() == pytest.approx(wanted, rel=1e-6)


def test_nats_are_weighted_and_stable() -> None:
    logits = mx.array([[1000.0, 0.0], [0.0, 0.0], [3.0, 1.0]])
    value = nats(logits, mx.array([1, 0, 0]), mx.array([1.0, 2.0, 0.0]))
    assert value.item() == pytest.approx(1000 + 2 * np.log(2), rel=1e-6)
    half = nats(mx.array([[3.0, 1.0]]).astype(mx.bfloat16), mx.array([0]), mx.array([1.0]))
    assert half.dtype == mx.float32
    assert half.item() == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-6)


def test_the_embedded_base_on_rows_of_the_cynic(embedded_base: Path) -> None:
    model, tokenizer = load_model(embedded_base), load_tokenizer(embedded_base)
    rows = sorted(
        tokenize(load_files([EXAMPLES / "cynic.valid.jsonl"]), tokenizer, 2048), key=lambda row: len(row.ids)
    )[:2]
    total, tokens = plain(model, rows)
    found = mean_loss(model, rows)
    assert found.tokens == tokens
    assert found.nats == pytest.approx(total / tokens, abs=1e-3)


@pytest.mark.slow
def test_the_embedded_base_on_the_whole_held_out_cynic(embedded_base: Path) -> None:
    model, tokenizer = load_model(embedded_base), load_tokenizer(embedded_base)
    rows = tokenize(load_files([EXAMPLES / "cynic.valid.jsonl"]), tokenizer, 2048)
    assert mean_loss(model, rows).nats == pytest.approx(4.355, abs=0.005)
