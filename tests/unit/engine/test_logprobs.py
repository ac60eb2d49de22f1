"""What an answer that begins with its prompt says of the prompt's tokens, beside rows that know nothing of it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from tests.families import build_model, config_of
from tests.unit.adapter.test_resident_set import load, mixable
from tests.unit.engine.test_batch import plain, tokenizer
from zen_mlx.adapter.attach import Resident, attach, detach
from zen_mlx.adapter.resident_set import ResidentSet
from zen_mlx.config import Sampling
from zen_mlx.engine import batch as batches
from zen_mlx.engine.batch import Batch
from zen_mlx.engine.logprobs import with_top
from zen_mlx.engine.request import Piece, Request
from zen_mlx.engine.row import Row

__all__ = ["plain", "tokenizer"]

TOLERANCE = 1e-4  # of a log-probability, in f32: parts of a prompt against all of it at once


def ask(seed: int, length: int, top: int | None = 3, echo: str | None = "the prompt", count: int = 4) -> Request:
    ids = np.random.default_rng(seed).integers(0, 250, length).tolist()
    return Request(ids, sampling=Sampling(count, 0.0, seed=1), top_logprobs=top, echo=echo, continues=True)


def pieces(batch: Batch, *rows: Row) -> list[list[Piece]]:
    found: dict[int, list[Piece]] = {id(row): [] for row in rows}
    while any(row.finish is None for row in rows):
        for row, piece in batch.step():
            found[id(row)].append(piece)
    return [found[id(row)] for row in rows]


def said(answer: list[Piece]) -> str:
    return "".join(piece.text for piece in answer)


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
def test_scores_are_those_of_one_forward(
    family: str, tokenizer: TokenizerWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches.PREFILL_TOKENS, "cpu", 8)
    model = build_model(config_of(family))
    profiles: list[Resident | None] = [None, mixable(model, "sign", 0), mixable(model, "factor", 1)]
    residents = ResidentSet(model)
    load(residents, *[each for each in profiles if each is not None])
    batch = Batch(model, tokenizer, residents, streams=4)
    rows = []
    for length, profile in zip((1, 9, 30), profiles, strict=True):
        rows.append(batch.add(ask(length, length), "" if profile is None else str(profile.digest)))
    firsts = [answer[0] for answer in pieces(batch, *rows)]
    residents.close()
    for row, first, profile in zip(rows, firsts, profiles, strict=True):
        if profile is not None:
            attach(model, profile, "unmerged")
        ids = [*row.request.ids, row.tokens[0]]
        logits = model(mx.array([ids]))[0]
        want = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        detach(model)
        assert first.text.startswith("the prompt")
        assert [each.token for each in first.logprobs] == ids
        assert (first.logprobs[0].logprob, first.logprobs[0].top) == (None, ())
        for position, each in enumerate(first.logprobs[1:]):
            assert each.logprob == pytest.approx(want[position, each.token], abs=TOLERANCE)
            best = np.sort(want[position])[::-1][:3]
            np.testing.assert_allclose([top.logprob for top in each.top], best, atol=TOLERANCE)


def test_rows_beside_it_stay_what_they_are_and_it_continues_as_without(
    tokenizer: TokenizerWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches.PREFILL_TOKENS, "cpu", 8)
    model = build_model(config_of("llama"))
    wanted = [ask(1, 12, None, None, 20), ask(2, 40, None, None, 20)]
    alone = []
    for each in wanted:
        batch = Batch(model, tokenizer)
        alone += pieces(batch, batch.add(each))
    batch = Batch(model, tokenizer)
    beside = batch.add(wanted[0])
    for _ in range(3):
        batch.step()
    echo = batch.add(ask(2, 40, 0, "P", 20))
    gone = batch.add(ask(3, 40, 0, "P", 20))
    batch.step()
    assert len(batch) == 3
    assert batch.cancel(gone) == ""
    assert len(batch) == 2
    rest, answer = pieces(batch, beside, echo)
    assert said(rest)
    assert said(alone[0]).endswith(said(rest))
    assert said(answer) == "P" + said(alone[1])
    assert sum(piece.tokens for piece in answer) == len(echo.tokens)
    assert not len(batch)


def test_without_log_probabilities_only_the_text_comes(tokenizer: TokenizerWrapper) -> None:
    model = build_model(config_of("llama"))
    batch = Batch(model, tokenizer)
    (answer,) = pieces(batch, batch.add(ask(1, 12, None, "before ")))
    assert answer[0].text.startswith("before ")
    assert not any(piece.logprobs for piece in answer)


def test_the_likeliest_come_in_order(tokenizer: TokenizerWrapper) -> None:
    logprobs = mx.array([[-3.0, -1.0, -2.0, -4.0], [-1.0, -2.0, -3.0, -0.5]])
    for top, want in ((0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 0])):
        first, second = with_top(tokenizer, [0, 3], logprobs, top)
        assert [each.token for each in first.top] == want
        assert (first.logprob, second.logprob) == (-3.0, -0.5)
