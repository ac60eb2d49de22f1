"""Sampling of tokens: token[t+1] ~ softmax(logits / temperature), cut to the nucleus of mass top_p; argmax at temperature 0.

On mlx-lm's `generate_step`. Its `stream_generate` is not used: it raises the wired memory limit and prints. Knows
nothing about profiles: the model that comes in has its delta attached.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..config import SEEDS, Sampling
from ..errors import InputError
from ..fsio import Json

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper
from typing import Any

from ..data.example import Example
from ..events import Count

PREFILL_TOKENS = 512  # prompt tokens between two looks at whether to stop
_NO_LIMIT = 2**31

Message = dict[str, str]


@dataclass(frozen=True)
class Generation:
    """One answer and what it took. finish_reason: "stop", "length" or "interrupted"; tps: tokens per second."""

    text: str
    model: str
    profile: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    prompt_tps: float
    generation_tps: float
    seed: int

    def to_dict(self) -> Json:
        """The document of `zen generate --json`."""
        return asdict(self)


class Decoding:
    """Iterate for pieces of text; afterwards the counts say what happened.

    ids: the tokens to feed now, at least one (with a cache: those that are not in it yet). tokens: what was drawn and is
    in the cache too, the end-of-turn token included. should_stop is asked between tokens and between pieces of the prompt.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: TokenizerWrapper,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        cache: list[object] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.seed = secrets.randbelow(SEEDS) if sampling.seed is None else sampling.seed
        self.tokens: list[int] = []
        self.finish_reason = "interrupted"
        self.prefilled = False
        self.prompt_s = 0.0
        self.generation_s = 0.0
        self._model = model
        self._tokenizer = tokenizer
        self._ids = list(ids)
        self._sampling = sampling
        self._cache = cache
        self._should_stop = should_stop

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens per second."""
        return len(self._ids) / self.prompt_s if self.prompt_s else 0.0

    @property
    def generation_tps(self) -> float:
        """Tokens drawn after the first one, per second."""
        return (len(self.tokens) - 1) / self.generation_s if self.generation_s and len(self.tokens) > 1 else 0.0

    def __iter__(self) -> Iterator[str]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.sample_utils import make_sampler

        mx.random.seed(self.seed)
        detokenizer = self._tokenizer.detokenizer
        began = time.perf_counter()
        steps = generate_step(
            mx.array(self._ids),
            self._model,
            max_tokens=self._sampling.max_tokens,
            sampler=make_sampler(temp=self._sampling.temperature, top_p=self._sampling.top_p),
            prompt_cache=self._cache,
            prefill_step_size=PREFILL_TOKENS,
            prompt_progress_callback=self._between,
        )
        ends = self._tokenizer.eos_token_ids
        try:
            for token, _ in steps:
                now = time.perf_counter()
                if not self.tokens:
                    self.prompt_s, began = now - began, now
                self.prefilled = True
                self.tokens.append(int(token))
                self.generation_s = now - began
                if token in ends:
                    self.finish_reason = "stop"
                    break
                detokenizer.add_token(token)
                if piece := detokenizer.last_segment:  # reading it moves it on
                    yield piece
                if self._should_stop():
                    break
            else:
                self.finish_reason = "length"
        except _Stopped:
            return
        finally:
            steps.close()
        detokenizer.finalize()
        if piece := detokenizer.last_segment:
            yield piece

    def _between(self, done: int, total: int) -> None:
        if self._should_stop():
            raise _Stopped


class _Stopped(Exception):
    """Leaves the prompt's computation."""


def context_length(model: nn.Module) -> int:
    """Most tokens the model can look at; a very large number for a model that does not say."""
    args = getattr(model, "args", None)
    for name in ("max_position_embeddings", "max_seq_len", "n_positions"):
        for place in (args, getattr(args, "text_config", None)):
            value = place.get(name) if isinstance(place, dict) else getattr(place, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return _NO_LIMIT


def has_template(tokenizer: TokenizerWrapper) -> bool:
    """Whether the model knows turns."""
    return bool(getattr(tokenizer, "has_chat_template", False))


def render(tokenizer: TokenizerWrapper, messages: Sequence[Message]) -> list[int]:
    """Token ids of the conversation through the model's chat template, up to where the assistant speaks.

    InputError for a model without a template or one whose template refuses these roles.
    """
    if not has_template(tokenizer):
        raise InputError(
            "this model has no chat template, so it cannot hold a conversation",
            hint="use an instruction-tuned model; `zen generate` continues plain text without a template",
        )
    try:
        ids = tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's: whatever it raises is about this conversation
        raise InputError(
            "the model's chat template refuses this conversation",
            field="messages",
            found=", ".join(message["role"] for message in messages),
            hint="some models do not accept a system message",
        ) from error
    return [int(token) for token in ids]


def prompt_ids(tokenizer: TokenizerWrapper, prompt: str, system: str | None = None) -> list[int]:
    """`prompt` as a user turn; the plain text for a model without a chat template."""
    if has_template(tokenizer):
        messages = [{"role": "system", "content": system}] if system else []
        return render(tokenizer, [*messages, {"role": "user", "content": prompt}])
    if system:
        raise InputError("this model has no chat template, so it accepts no system message", field="system")
    ids = [int(token) for token in tokenizer.encode(prompt)]
    if not ids:
        raise InputError("the prompt is empty", field="prompt")
    return ids


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompt: str,
    sampling: Sampling,
    *,
    system: str | None = None,
    model_name: str = "",
    profile: str | None = None,
    on_text: Callable[[str], None] = lambda text: None,
) -> Generation:
    """Answer one prompt, calling `on_text` with each piece as it comes.

    The answer ends where the context does. InputError for a prompt that fills the context.
    """
    ids = prompt_ids(tokenizer, prompt, system)
    room = context_length(model) - len(ids)
    if room < 1:
        raise InputError(
            "the prompt is longer than the model's context",
            field="prompt",
            expected=f"fewer than {context_length(model)} tokens",
            found=f"{len(ids)} tokens",
        )
    limit = min(sampling.max_tokens, room)
    decoding = Decoding(model, tokenizer, ids, Sampling(limit, sampling.temperature, sampling.top_p, sampling.seed))
    pieces = []
    for piece in decoding:
        pieces.append(piece)
        on_text(piece)
    return Generation(
        text="".join(pieces),
        model=model_name,
        profile=profile,
        finish_reason=decoding.finish_reason,
        prompt_tokens=len(ids),
        completion_tokens=len(decoding.tokens),
        prompt_tps=round(decoding.prompt_tps, 2),
        generation_tps=round(decoding.generation_tps, 2),
        seed=decoding.seed,
    )


def prompt_of(example: Example) -> list[dict[str, Any]]:
    """The turns before the last assistant turn; none where there is no such turn, or nothing before it."""
    messages = example.chat_messages()
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages[:-1]


def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    most_tokens: int,
    progress: Count = lambda done, total: None,
) -> list[tuple[str, bool]]:
    """(text, whether it was cut off) for the token ids of each prompt: the likeliest token again and again.

    An answer ends with the turn, after `most_tokens` tokens, or where the context ends.
    """
    answers = []
    for done, ids in enumerate(prompts):
        progress(done, len(prompts))
        room = min(most_tokens, context_length(model) - len(ids))
        decoding = Decoding(model, tokenizer, ids, Sampling(max(1, room), 0.0, seed=0))
        text = "".join(decoding)
        answers.append((text, decoding.finish_reason == "length"))
    progress(len(prompts), len(prompts))
    return answers
