"""Every row of a mixed batch gives what it gives alone, whoever joins, leaves or is cancelled beside it."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper

from tests.families import build_model, config_of
from tests.unit.adapter.test_resident_set import load, mixable
from zen_mlx.adapter.attach import Resident, attach, detach
from zen_mlx.adapter.resident_set import ResidentSet
from zen_mlx.base.load import load_tokenizer
from zen_mlx.config import Sampling
from zen_mlx.engine.batch import Batch
from zen_mlx.engine.prompt_cache import PromptCaches
from zen_mlx.engine.request import Finish, Request
from zen_mlx.engine.row import Row, StopTexts, sampler

KINDS = ("sign", "sign", "planes", "factor", "all")


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    """Compiled functions are built by a C++ compiler on the CPU: seconds each."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> TokenizerWrapper:
    return load_tokenizer(tiny_model)


def ask(seed: int, length: int, count: int = 12, temperature: float = 0.0) -> Request:
    ids = np.random.default_rng(seed).integers(0, 250, length).tolist()
    return Request(ids, sampling=Sampling(count, temperature, 0.9, seed))


def finish(row: Row) -> Finish:
    assert row.finish is not None
    return row.finish


def drained(batch: Batch, row: Row) -> list[int]:
    while row.finish is None:
        batch.step()
    return row.tokens


def alone(model: nn.Module, tokenizer: TokenizerWrapper, request: Request, profile: Resident | None) -> list[int]:
    """By mlx-lm itself, one stream, with the profile attached."""
    if profile is not None:
        attach(model, profile, "unmerged")
    sampling = request.sampling
    mx.random.seed(sampling.seed)
    found: list[int] = []
    sampler = make_sampler(temp=sampling.temperature, top_p=sampling.top_p)
    for token, _ in generate_step(mx.array(request.ids), model, max_tokens=sampling.max_tokens, sampler=sampler):
        found.append(int(token))
        if token in tokenizer.eos_token_ids:
            break
    detach(model)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "qwen3_next", "lfm2"])
def test_mixed_rows_equal_each_alone(family: str, tokenizer: TokenizerWrapper) -> None:
    """Dense, experts, recurrent and convolutional; prompts of all lengths; late joins and one that is cancelled."""
    model = build_model(config_of(family))
    profiles = [mixable(model, kind, seed) for seed, kind in enumerate(KINDS)]
    rows: list[Resident | None] = [None, *profiles, profiles[0], None, profiles[4]]
    requests = [ask(seed, 3 + 7 * seed, temperature=0.8 * (seed % 3 == 2)) for seed in range(len(rows))]
    want = [alone(model, tokenizer, request, each) for request, each in zip(requests, rows, strict=True)]
    residents = ResidentSet(model)
    load(residents, *profiles)
    batch = Batch(model, tokenizer, residents, streams=6)
    keys = ["" if each is None else str(each.digest) for each in rows]
    running = [batch.add(request, key) for request, key in zip(requests[:5], keys[:5], strict=True)]
    leaves = batch.add(ask(99, 20, 1000), keys[1])
    for _ in range(4):
        batch.step()
    running += [batch.add(request, key) for request, key in zip(requests[5:], keys[5:], strict=True)]
    batch.cancel(leaves)
    assert [drained(batch, row) for row in running] == want
    assert finish(leaves).finish_reason == "interrupted"
    assert len({tuple(each) for each in want}) > 5


def test_a_slot_overwritten_between_two_steps(tokenizer: TokenizerWrapper) -> None:
    model = build_model(config_of("llama"))
    profiles = [mixable(model, "sign", seed) for seed in range(3)]
    requests = [ask(seed, 9, 30) for seed in range(3)]
    want = [alone(model, tokenizer, request, each) for request, each in zip(requests, profiles, strict=True)]
    residents = ResidentSet(model, most=2)
    load(residents, *profiles[:2])
    for profile in profiles[:2]:
        residents.release(str(profile.digest))
    batch = Batch(model, tokenizer, residents)
    first, second = (batch.add(requests[i], f"sign{i}") for i in range(2))
    for _ in range(6):
        batch.step()
    batch.cancel(first)
    batch.settle()
    assert residents.room_for(profiles[2])
    load(residents, profiles[2])
    third = batch.add(requests[2], "sign2")
    assert drained(batch, second) == want[1]
    assert drained(batch, third) == want[2]


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
def test_a_second_turn_from_the_cache_equals_a_full_prefill(family: str, tokenizer: TokenizerWrapper) -> None:
    model = build_model(config_of(family))
    profiles = [mixable(model, "sign", seed) for seed in range(2)]
    first = ask(1, 20)
    residents = ResidentSet(model)
    load(residents, *profiles)
    batch = Batch(model, tokenizer, residents)
    answers = {key: drained(batch, batch.add(first, key)) for key in ("", "sign0", "sign1")}
    for key, profile in (("", None), ("sign0", profiles[0])):
        second = Request([*first.ids, *answers[key], 7, 8, 9], sampling=Sampling(12, 0.0, 1.0, 0))
        row = batch.add(second, key)
        found = drained(batch, row)
        assert finish(row).cached_tokens >= len(first.ids) + len(answers[key]) - 1
        residents.close()
        assert found == alone(model, tokenizer, second, profile)
        load(residents, *profiles)
    batch.caches.drop("sign1")
    row = batch.add(Request([*first.ids, 1], sampling=Sampling(1, 0.0)), "sign1")
    drained(batch, row)
    assert finish(row).cached_tokens == 0


def test_caches_are_limited_and_each_profile_has_its_share() -> None:
    model = build_model(config_of("llama"))
    from mlx_lm.models.cache import make_prompt_cache

    def cache_of(length: int) -> list[object]:
        made = make_prompt_cache(model)
        mx.eval(model(mx.zeros((1, length), mx.int32), cache=made))
        return list(made)

    one = sum(each.nbytes for each in cache_of(8))  # type: ignore[attr-defined]
    caches = PromptCaches(4 * one)
    caches.put("quiet", [1] * 8, cache_of(8))
    for turn in range(2, 12):
        caches.put("busy", [turn] * 8, cache_of(8))
    assert caches.nbytes <= 4 * one
    assert caches.fetch("quiet", [1] * 9)[1] == 8
    assert caches.fetch("other", [1] * 9) == (None, 0)
    assert caches.fetch("busy", [11] * 8)[1] == 7  # one token is left to feed
    assert caches.fetch("busy", [2] * 9)[1] == 0


@pytest.mark.parametrize("family", ["llama", "qwen3_next", "lfm2"])
def test_a_cache_that_is_kept_holds_on_to_nothing_else(family: str, tokenizer: TokenizerWrapper) -> None:
    """Not to the arrays of the whole batch, of which it was a part; MLX shares what is up to 16 KiB larger than the part."""
    model = build_model(config_of(family))
    batch = Batch(model, tokenizer)
    drained(batch, batch.add(ask(0, 200, 2)))
    batch.caches.clear()
    gc.collect()
    before = mx.get_active_memory()
    for row in [batch.add(ask(seed, 200, 2 + seed)) for seed in range(16)]:
        drained(batch, row)
    batch.settle()
    gc.collect()
    assert batch.caches.nbytes > 0
    assert mx.get_active_memory() - before < 1.45 * batch.caches.nbytes


@pytest.mark.parametrize(("temperature", "top_p"), [(1e-39, 1.0), (1e-300, 0.9), (0.8, 1e-300), (1e-5, 1.0)])
def test_next_to_no_temperature_or_nucleus_leaves_the_likeliest(temperature: float, top_p: float) -> None:
    logprobs = mx.log(mx.softmax(mx.random.normal((1, 1000), key=mx.random.key(3)) * 3, axis=-1))
    draw = sampler(Sampling(5, temperature, top_p, 1), 1)
    drawn = mx.argmax(logprobs, axis=-1) if draw is None else draw(logprobs)
    assert drawn.item() == mx.argmax(logprobs).item()


@pytest.mark.parametrize("pieces", [["Hello STOP there"], ["Hello S", "TOP there"], [*"Hello STOP there"]])
def test_stop_texts(pieces: Sequence[str]) -> None:
    stops = StopTexts(["STOP", "STOPPER", "never"])
    assert "".join(stops.feed(piece) for piece in pieces if stops.found is None) == "Hello "
    assert stops.found == "STOP"
    stops = StopTexts(["abc"])
    assert stops.feed("xab") == "x"
    assert stops.feed("ab") == "ab"
    assert stops.rest() == "ab"


def test_stop_text_ends_a_row_and_log_probabilities_are_those_of_the_model(tokenizer: TokenizerWrapper) -> None:
    model = build_model(config_of("llama"))
    ids = [5, 6, 7, 8]
    batch = Batch(model, tokenizer)
    free = batch.add(Request(ids, sampling=Sampling(8, 0.0, seed=0), top_logprobs=3))
    pieces = list(batch.pieces(free))
    logits = model(mx.array([[*ids, *free.tokens[:-1]]]))[0, len(ids) - 1 :]
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    for step, piece in enumerate(pieces):
        (known,) = piece.logprobs
        assert known.token == free.tokens[step] == known.top[0].token
        assert known.logprob == pytest.approx(logprobs[step, known.token], abs=1e-4)
        assert [each.token for each in known.top] == np.argsort(-logprobs[step])[:3].tolist()
    drawn = Sampling(24, 1.0, 1.0, 3)
    text = "".join(piece.text for piece in batch.pieces(batch.add(Request(ids, sampling=drawn))))
    stop = text[8:10]
    row = batch.add(Request(ids, sampling=drawn, stop=("never", stop)))
    assert "".join(piece.text for piece in batch.pieces(row)) == text[: text.index(stop)]
    assert (finish(row).finish_reason, finish(row).stop) == ("stop", stop)
    assert len(batch) == 0


def test_the_first_space_of_a_continuation_is_part_of_it(tokenizer: TokenizerWrapper) -> None:
    class Spaces:
        """Allows nothing but a space."""

        failure = None

        def matcher(self) -> Spaces:
            return self

        def consume(self, tokens: Sequence[int]) -> None: ...

        def allowed(self) -> np.ndarray:
            return np.arange(258) == tokenizer.encode(" a")[0]

    batch = Batch(build_model(config_of("llama")), tokenizer)
    request = Request(tokenizer.encode("Love is"), sampling=Sampling(2, 0.0), grammar=Spaces())
    assert "".join(piece.text for piece in batch.pieces(batch.add(request))) == " "
    row = batch.add(dataclasses.replace(request, continues=True))
    assert "".join(piece.text for piece in batch.pieces(row)) == "  "
