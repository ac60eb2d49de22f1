"""Loss, KL and agreement against a NumPy computation that shares nothing with them."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.base.load import load_model, load_tokenizer
from zen_mlx.data.examples import load_examples
from zen_mlx.data.loss import mean_loss
from zen_mlx.data.tokens import TokenRow, tokenize
from zen_mlx.errors import ConfigError, DataError, MemoryLimitError
from zen_mlx.eval import answers, reference_model
from zen_mlx.eval import measure as measuring
from zen_mlx.eval.measure import Beside, Recorded, measure, walk
from zen_mlx.paths import zen_home

ROWS = [
    {"messages": [{"role": "user", "content": "hi " * n}, {"role": "assistant", "content": f"so it is, {n} times"}]}
    for n in range(1, 12)
]


@pytest.fixture
def rows(tiny_model: Path) -> list[TokenRow]:
    return tokenize(load_examples(ROWS), load_tokenizer(tiny_model), 512)


@pytest.fixture
def pair(tiny_model: Path) -> tuple[Any, Any]:
    """(a model, its change): random weights, near each other."""
    one, other = load_model(tiny_model), load_model(tiny_model)
    mx.random.seed(3)
    head = other.lm_head.weight
    other.lm_head.weight = head + 0.05 * mx.random.normal(head.shape)
    return one, other


def log_softmax(model: Any, row: TokenRow) -> np.ndarray:
    logits = np.array(model(mx.array([row.ids]))[0].astype(mx.float32)).astype(np.float64)
    peak = logits.max(axis=-1, keepdims=True)
    return logits - peak - np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True))


def by_hand(model: Any, other: Any, rows: list[TokenRow]) -> dict[str, float]:
    nats, kl, hits, same = [], [], [], []
    for row in rows:
        q, p = log_softmax(model, row), log_softmax(other, row)
        for t in range(1, len(row.ids)):
            if row.supervised[t]:
                nats.append(-q[t - 1, row.ids[t]])
                kl.append((np.exp(p[t - 1]) * (p[t - 1] - q[t - 1])).sum())
                hits.append(q[t - 1].argmax() == row.ids[t])
                same.append(q[t - 1].argmax() == p[t - 1].argmax())
    return {
        "nats": np.mean(nats),
        "kl": np.mean(kl),
        "accuracy": 100 * np.mean(hits),
        "agreement": 100 * np.mean(same),
        "tokens": len(nats),
    }


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("piece", [measuring.PIECE, 40])
def test_every_measure_is_what_numpy_says(
    pair: tuple[Any, Any], rows: list[TokenRow], on_disk: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "PIECE", piece)
    monkeypatch.setattr(measuring, "CHUNK", 7)
    model, other = pair
    if not on_disk:
        monkeypatch.setattr(reference_model, "DISK_BYTES", 0)
    seen: list[tuple[int, int]] = []
    kept, own = reference_model.keep_logits(other, rows, 0, lambda done, total: seen.append((done, total)))
    assert type(kept) is (Recorded if on_disk else Beside)
    wanted = by_hand(model, other, rows)
    for _ in range(2):  # it can be asked again, for the next profile
        found = measure(model, rows, kept)
        assert found.tokens == wanted["tokens"]
        assert found.nats == pytest.approx(wanted["nats"], rel=1e-5)
        assert found.kl == pytest.approx(wanted["kl"], rel=1e-4)
        assert found.accuracy == pytest.approx(wanted["accuracy"])
        assert found.agreement == pytest.approx(wanted["agreement"])
        assert found.perplexity == pytest.approx(math.exp(wanted["nats"]), rel=1e-4)
    assert found.kl is not None
    assert 0 < found.kl < 1
    assert own.nats == pytest.approx(mean_loss(other, rows).nats, rel=1e-5)
    assert seen[-1] == (len(rows), len(rows))
    same = measure(other if on_disk else copy.deepcopy(other), rows, kept)
    assert (same.kl, same.agreement) == (pytest.approx(0, abs=1e-9), 100)
    kept.close()
    assert not zen_home().is_dir() or not list(zen_home().iterdir()), "nothing stays on the disk"
    assert measure(model, rows).kl is None


def test_where_one_has_more_tokens_the_shared_ones_are_compared(pair: tuple[Any, Any], rows: list[TokenRow]) -> None:
    model, other = pair
    grown = [
        mx.concatenate([piece.logits, mx.full((len(piece.labels), 3), -3.0)], axis=-1) for piece in walk(other, rows)
    ]
    plain = [piece.logits for piece in walk(other, rows)]
    assert measure(model, rows, grown).kl == pytest.approx(measure(model, rows, plain).kl, rel=1e-6)


def test_what_fits_nowhere_is_refused_with_numbers(
    pair: tuple[Any, Any], rows: list[TokenRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_model, "DISK_BYTES", 0)
    with pytest.raises(MemoryLimitError, match="GB") as caught:
        reference_model.keep_logits(pair[1], rows, 2**50)
    assert "--limit" in (caught.value.hint or "")


def test_answers_are_drawn_with_a_seed_and_scored_by_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    examples = load_examples(ROWS)
    picked = answers.choose_prompts(examples, 4)
    assert picked == answers.choose_prompts(examples, 4) != answers.choose_prompts(examples, 4, seed=1)
    assert all(turns[-1]["role"] == "user" for turns in picked)
    assert len(answers.choose_prompts(examples)) == answers.ANSWERS
    assert len(answers.choose_prompts(examples, 99)) == len(ROWS)
    texts = load_examples(["just a text"])
    assert answers.choose_prompts(texts) == []
    with pytest.raises(DataError):
        answers.choose_prompts(texts, 3)
    said, wanted = ["the cat sat on a mat", "who knows"], ["the cat sat on the mat", "nobody knows it"]
    bleu, chrf = answers.score(said, wanted)
    assert bleu == sacrebleu.corpus_bleu(said, [wanted]).score
    assert chrf == sacrebleu.corpus_chrf(said, [wanted]).score
    assert answers.score(wanted, wanted) == (pytest.approx(100), pytest.approx(100))


def test_without_sacrebleu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers.importlib.util, "find_spec", lambda name: None)
    assert not answers.have_scores()
    with pytest.raises(ConfigError) as caught:
        answers.score(["a"], ["a"])
    assert "zen-mlx[eval]" in json.dumps(caught.value.to_dict())
