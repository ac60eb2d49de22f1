"""The embedded base, really fetched and converted, answers a question."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm import generate

from zen_mlx.base import embedded
from zen_mlx.base.load import load_base
from zen_mlx.base.loaded import describe


@pytest.mark.usefixtures("with_embedded_base")
def test_answers_a_factual_question() -> None:
    model, tokenizer = load_base("smollm2-135m")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    answer = generate(model, tokenizer, prompt, max_tokens=20)
    assert "Paris" in answer
    assert len(answer) < 60, "the end-of-turn token ends the answer"


@pytest.mark.usefixtures("with_embedded_base")
def test_each_load_gives_new_modules() -> None:
    first, _ = load_base("smollm2-135m")
    second, _ = load_base("smollm2-135m")
    norm = first.model.norm
    before = mx.array(second.model.norm.weight)
    norm.weight = norm.weight * 0
    assert mx.array_equal(second.model.norm.weight, before)


def test_describe_gives_path_and_golden_fingerprint(with_embedded_base: Path) -> None:
    shown = describe("smollm2-135m")
    assert Path(shown["path"]) == with_embedded_base
    assert shown["fingerprint"] == {
        "weights": "138da15f5f90b6b2af1c2398c8d663ab024ef714043b18646e9f9083aee692da",
        "tokenizer": "71d5d0564401f3415e5cce1e0767594b659662ddf5fca95f0dc461738a34312e",
    }
    assert shown["fingerprint"]["weights"] == embedded.DIGESTS.weights
    assert shown["architecture"] == "llama"
    assert shown["quantization"] is None


def test_tokenizer_splits_digits_and_keeps_special_tokens(with_embedded_base: Path) -> None:
    from zen_mlx.base.load import load_tokenizer

    tokenizer = load_tokenizer(with_embedded_base)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("in 1984<|im_end|>")) == [
        "in", "Ġ", "1", "9", "8", "4", "<|im_end|>",
    ]  # fmt: skip
    assert tokenizer.eos_token_ids == {2}
    text = "Grüße, 世界 🙂\n\tdef f(x): return x**2"
    assert tokenizer.decode(tokenizer.encode(text)) == text
