"""Continuous batching: many requests, each with its own profile, decoded together, on mlx-lm's `BatchGenerator`.

Which profile a row has is a tag that travels with its KV cache through everything that mlx-lm does to a batch: merge, filter,
extend, extract. Before each call of the model the tags say which slots its rows use. The only module that uses mlx-lm's
batch interface, and the only way to decode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..kernels.dispatch import backend
from . import logprobs
from .constraints import logits_processor
from .prompt_cache import PromptCaches
from .request import Finish, Piece, Request
from .row import Row, sampler

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from ..adapter.resident_set import ResidentSet

BASE = -1
BASE_KEY = ""  # of the base's prompt caches
PREFILL_TOKENS = {
    "cpu": 128,
    "metal": 512,
    "cuda": 512,
}  # of a prompt between two steps: as fast as more, and others wait less
DEFAULT_STREAMS = 32
_PREFILL_ROWS = 8
_ENDED = object()


class RowTag:
    """The handles of a batch's rows, as the last of their caches."""

    nbytes = 0
    state: tuple[()] = ()

    def __init__(self, handles: Sequence[int]) -> None:
        self.handles = list(handles)

    @classmethod
    def merge(cls, tags: Sequence[RowTag]) -> RowTag:
        return cls([handle for tag in tags for handle in tag.handles])

    def extend(self, other: RowTag) -> None:
        self.handles += other.handles

    def filter(self, keep: Sequence[int]) -> None:
        self.handles = [self.handles[index] for index in keep]

    def extract(self, index: int) -> RowTag:
        return RowTag([self.handles[index]])

    def prepare(self, **_: object) -> None:
        """Padding is nothing to a tag."""

    def finalize(self) -> None:
        """Padding is nothing to a tag."""


@dataclass
class _Scored:
    """A row whose prompt is being read for its own log-probabilities; it joins the others when `work` has ended."""

    row: Row
    key: str
    shared: bool
    cache: list[Any]
    work: Iterator[None]


class Batch:
    """The rows that one model decodes now. Not thread-safe. residents: the profiles that rows may have; None: none."""

    def __init__(
        self,
        model: Any,
        tokenizer: TokenizerWrapper,
        residents: ResidentSet | None = None,
        *,
        streams: int = DEFAULT_STREAMS,
        caches: PromptCaches | None = None,
    ) -> None:
        from mlx_lm.generate import BatchGenerator

        self.model = model
        self.tokenizer = tokenizer
        self.residents = residents
        self.caches = caches or PromptCaches()
        self._rows: dict[int, tuple[Row, str, bool]] = {}
        self._scored: list[_Scored] = []
        self._generator: Any = BatchGenerator(
            cast(Any, self._forward),
            stop_tokens=[[int(token)] for token in tokenizer.eos_token_ids],
            completion_batch_size=streams,
            prefill_batch_size=min(_PREFILL_ROWS, streams),
            prefill_step_size=PREFILL_TOKENS[backend()],
        )
        self._generator.close()  # gives back the wired limit that it raised
        self._generator._old_wired_limit = None

    def __len__(self) -> int:
        return len(self._rows) + len(self._scored)

    def add(self, request: Request, key: str = BASE_KEY, shared: bool = True) -> Row:
        """A row for `request`, under the profile `key`; it is computed in the steps that follow.

        shared: the profile is a resident; else it is attached to the model, and all rows have it.
        """
        from mlx_lm.models.cache import make_prompt_cache

        scored = request.echo is not None and request.top_logprobs is not None
        found, cached = (None, 0) if scored else self.caches.fetch(key, request.ids)
        row = Row(request, self.tokenizer, cached)
        shared = shared and key != BASE_KEY and self.residents is not None
        handle = self.residents.acquire(key) if shared and self.residents is not None else BASE
        cache = [*(found or make_prompt_cache(self.model)), RowTag([handle])]
        if scored:
            self._scored.append(_Scored(row, key, shared, cache, self._score(row, cache)))
        else:
            self._insert(row, key, shared, cache, cached)
        return row

    def _insert(self, row: Row, key: str, shared: bool, cache: list[Any], done: int) -> None:
        """Give a row to mlx-lm. done: how many tokens of its prompt `cache` holds."""
        ids, sampling = list(row.request.ids), row.request.sampling
        processors = [] if row.matcher is None else [logits_processor(row.matcher, len(ids))]
        (uid,) = self._generator.insert(
            [ids[done:]],
            [sampling.max_tokens],
            caches=[cache],
            all_tokens=[ids[:done]],
            samplers=[sampler(sampling, row.seed)],
            logits_processors=[processors],
        )
        self._rows[uid] = row, key, shared

    def _score(self, row: Row, cache: list[Any]) -> Iterator[None]:
        """Read a prompt alone, with the log-probabilities of its tokens, a part at each step."""
        ids, top, part = row.request.ids, row.request.top_logprobs or 0, PREFILL_TOKENS[backend()]
        forward = functools.partial(self._forward, cache=cache)
        for known in logprobs.of_prompt(self.tokenizer, ids, top, part, forward, cache[:-1]):
            row.prompt_logprobs += known
            yield

    def step(self) -> list[tuple[Row, Piece]]:
        """One token for each row, or the next part of a prompt; a row that ended has its `finish`."""
        self._go_on_scoring()
        _, responses = self._generator.next()
        pieces, ended = [], []
        for each in responses:
            row, key, _ = self._rows[each.uid]
            pieces.append((row, row.take(int(each.token), each.logprobs, each.finish_reason)))
            if each.finish_reason is not None:
                self._keep(key, each.all_tokens, each.prompt_cache)
                self._release(each.uid)
            elif row.finish is not None:
                ended.append(each.uid)
        self._remove(ended)
        return pieces

    def _go_on_scoring(self) -> None:
        """With one prompt; `_ENDED` is what a generator at its end gives."""
        import mlx.core as mx

        for each in self._scored[:1]:
            with mx.stream(self._generator.stream):
                ended = next(each.work, _ENDED) is _ENDED
            if ended:  # the last token is for mlx-lm to begin with
                self._scored.remove(each)
                self._insert(each.row, each.key, each.shared, each.cache, len(each.row.request.ids) - 1)

    def cancel(self, row: Row) -> str:
        """Take `row` out, in whatever state it is, and return the last of its text."""
        text = row.interrupt()
        for scored in [each for each in self._scored if each.row is row]:
            self._scored.remove(scored)
            self._let_go(scored.key, scored.shared)
        self._remove([uid for uid, (each, *_) in self._rows.items() if each is row])
        return text

    def settle(self) -> None:
        """Wait until nothing is in flight: what the last step used may then be written."""
        import mlx.core as mx

        mx.synchronize(self._generator.stream)

    def pieces(self, row: Row, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """Step until `row` has ended and yield its pieces; it is cancelled when the caller or `should_stop` says so."""
        try:
            while row.finish is None:
                yield from [piece for each, piece in self.step() if each is row]
                if row.finish is None and should_stop() and (text := self.cancel(row)):
                    yield Piece(text, 0)
        except GeneratorExit:
            if row.finish is None:
                self.cancel(row)
            raise

    def _forward(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        if self.residents is None:
            alone: mx.array = self.model(tokens, cache=cache[:-1])
            return alone
        self.residents.rows.handles = tuple(cache[-1].handles)
        return self.residents.only_own_words(self.model(tokens, cache=cache[:-1]))

    def _remove(self, uids: list[int]) -> None:
        if not uids:
            return
        for uid, (cache, tokens) in self._generator.remove(uids, return_prompt_caches=True).items():
            if tokens and self._rows[uid][0].tokens:
                self._keep(self._rows[uid][1], tokens, cache)
        for uid in uids:
            self._release(uid)

    def _keep(self, key: str, tokens: list[int], cache: list[Any]) -> None:
        """Keep a row's cache, in arrays of its own: a part of the batch's would hold on to all of them."""
        import mlx.core as mx
        from mlx.utils import tree_map

        if not self.caches.max_bytes:
            return
        arrays: list[mx.array] = []

        def own(value: Any) -> Any:
            if isinstance(value, mx.array):
                value = mx.contiguous(value)
                arrays.append(value)
            return value

        with mx.stream(self._generator.stream):
            for each in cache[:-1]:
                each.state = tree_map(own, each.state)
        mx.async_eval(arrays)
        self.caches.put(key, tokens, cache[:-1])

    def _release(self, uid: int) -> None:
        _, key, shared = self._rows.pop(uid)
        self._let_go(key, shared)

    def _let_go(self, key: str, shared: bool) -> None:
        if self.residents is not None and shared:
            self.residents.release(key)


def finished(row: Row) -> Finish:
    """How `row` ended."""
    assert row.finish is not None
    return row.finish
