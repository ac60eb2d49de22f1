"""One row of a batch: a request being answered. Tokens come in, pieces of text go out, until it is finished."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..config import SEEDS, Sampling
from .logprobs import with_top
from .request import Finish, Piece, Request, TokenLogprob

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx_lm.tokenizer_utils import TokenizerWrapper

_LEAST = 1e-6  # of temperature and top_p: below it f32 knows no distribution, and only the likeliest token is left
Sampler = Callable[["mx.array"], "mx.array"]


def sampler(sampling: Sampling, seed: int) -> Sampler | None:
    """token ~ softmax(logits / temperature), cut to the nucleus of mass top_p, from a key of its own; None: the likeliest.

    The draws are those of MLX's own generator after `mx.random.seed(seed)`, whatever other rows draw.
    """
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_top_p

    if sampling.temperature < _LEAST:
        return None
    key = mx.random.key(seed)

    def draw(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        if sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, max(sampling.top_p, _LEAST))
        return mx.random.categorical(logprobs * (1 / sampling.temperature), key=now)

    return draw


class StopTexts:
    """Cuts a stream of text at the first of `texts`; what may be the beginning of one is held back."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [text for text in texts if text]
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain to belong to the answer."""
        held = self._held + text
        at = {held.find(each): each for each in reversed(self._texts) if each in held}
        if at:
            self.found, self._held = at[min(at)], ""
            return held[: min(at)]
        keep = max((self._overlap(held, each) for each in self._texts), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def rest(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Most characters at the end of `text` that begin `stop`."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Row:
    """tokens: those drawn so far, an end of turn included. prompt_logprobs: of the prompt's, for the first piece."""

    def __init__(self, request: Request, tokenizer: TokenizerWrapper, cached: int) -> None:
        sampling = request.sampling
        self.request = request
        self.cached = cached
        self.seed = secrets.randbelow(SEEDS) if sampling.seed is None else sampling.seed
        self.tokens: list[int] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.finish: Finish | None = None
        self.matcher = None if request.grammar is None else request.grammar.matcher()
        self._tokenizer = tokenizer
        self._detokenizer: Any = tokenizer.detokenizer
        if request.continues:  # the detokenizer takes the first space off whatever comes first
            self._detokenizer.add_token(int(request.ids[-1]))
            _ = self._detokenizer.last_segment  # reading it moves it on
        self._stops = StopTexts(request.stop)
        self._began = time.perf_counter()
        self._first = self._last = 0.0

    def take(self, token: int, logprobs: Any, reason: str | None) -> Piece:
        """The piece that comes with `token`; `reason`: what the batch says of its end. `finish` is set when it has ended."""
        self._last = time.perf_counter()
        known = self._known(token, logprobs)
        text, said = "", ""
        if not self.tokens:
            self._first = self._last
            said, known = self.request.echo or "", [*self.prompt_logprobs, *known]
        self.tokens.append(token)
        if token not in self._tokenizer.eos_token_ids:
            self._detokenizer.add_token(token)
            text = self._stops.feed(self._detokenizer.last_segment)
        else:
            reason = "stop"
        if self._stops.found is not None:
            reason = "stop"
        if reason is not None:
            text += self._end(reason)
        return Piece(said + text, 1, tuple(known))

    def interrupt(self) -> str:
        """End the answer where it is; the text that was held back."""
        return self._end("interrupted")

    def _end(self, reason: str) -> str:
        text = ""
        if self._stops.found is None:
            self._detokenizer.finalize()
            text = self._stops.feed(self._detokenizer.last_segment) + self._stops.rest()
            if self._stops.found is not None:
                reason = "stop"
        fed, prompt_s, answer_s = (
            len(self.request.ids) - self.cached,
            self._first - self._began,
            self._last - self._first,
        )
        self.finish = Finish(
            finish_reason=reason,
            stop=self._stops.found,
            prompt_tokens=len(self.request.ids),
            cached_tokens=self.cached,
            completion_tokens=len(self.tokens),
            prompt_tps=fed / prompt_s if self.tokens else 0.0,
            generation_tps=(len(self.tokens) - 1) / answer_s if answer_s else 0.0,
            seed=self.seed,
        )
        return text

    def _known(self, token: int, logprobs: Any) -> list[TokenLogprob]:
        top = self.request.top_logprobs
        return [] if top is None else with_top(self._tokenizer, [token], logprobs[None], top)
