"""Constrained decoding: the tokens that may come next, so that an answer fits a JSON schema or is a tool call.

On llguidance, which comes with the extra `[server]`. JSON is written without spaces between its parts. Keywords that
llguidance cannot enforce are errors, never ignored.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ZenError
from .request import Grammar, Matcher
from .schema_limits import MOST_BYTES, Json, schema_json, too_large
from .tool_grammar import tool_call_rules

if TYPE_CHECKING:
    import mlx.core as mx
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from mlx_lm.tokenizer_utils import TokenizerWrapper

INSTALL = "pip install 'zen-mlx[server]'"
_GRAMMARS_KEPT = 32
_PROBE_TOKENS = 4
_REASON_CHARACTERS = 300


class Constraints:
    """Grammars for one base; for any thread. The first one takes about a second more: the vocabulary is read then.

    vocab_size: the model's, with its padding. tokenizing: the lock that guards the tokenizer, where others use it too.
    """

    def __init__(self, tokenizer: TokenizerWrapper, vocab_size: int, tokenizing: threading.Lock | None = None) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._tokenizing = tokenizing or threading.Lock()
        self._building = threading.Lock()
        self._built: LLTokenizer | None = None
        self._compiled = functools.lru_cache(_GRAMMARS_KEPT)(self._compile)

    def json_schema(self, schema: Json, field: str = "response_format") -> Grammar:
        """JSON that fits `schema`. InputError, of `field`, with the reason for a schema that cannot be used."""
        text = schema_json(schema, field)
        return self._grammar("json", text, "the JSON schema cannot be used", field)

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def tool_call(self, tools: Sequence[Json], name: str | None = None, field: str = "tools") -> Grammar:
        """One call of a tool in the base's own form, from its start marker to its end marker, and nothing else.

        tools: [{"type": "function", "function": {"name": .., "parameters": schema of an object}}, ..], as the chat template
        gets them. name: the one to call; None for any of them. InputError, of `field`, for tools that cannot be used, and of
        "tool_choice" for a name that is none of theirs or a base whose form is not `<tool_call>` with JSON in it.
        """
        text = tool_call_rules(self._tokenizer, tools, name, field)
        return self._grammar("lark", text, "the tools cannot be used", field)

    def _grammar(self, kind: str, text: str, message: str, field: str) -> Grammar:
        if len(text) > MOST_BYTES:
            raise too_large(field, "bytes of JSON", MOST_BYTES, len(text))
        try:
            return self._compiled(kind, text)
        except ValueError as error:
            raise InputError(f"{message}: {error}", field=field) from error

    def _compile(self, kind: str, text: str) -> Grammar:
        """ValueError with llguidance's reason. The first masks are made here, so that no decoding thread waits for them."""
        tokenizer = self._vocabulary()
        from llguidance import LLMatcher

        source = LLMatcher.grammar_from_lark(text) if kind == "lark" else LLMatcher.grammar_from_json_schema(text)
        made = LLMatcher(tokenizer, source, log_level=0, limits=_limits())
        made.compute_bitmask()
        _probe(made.deep_copy(), self._vocab_size)
        if made.is_error():
            raise ValueError(_reason(made))
        return _Compiled(made, self._vocab_size, tuple(sorted(self._tokenizer.eos_token_ids)))

    def _vocabulary(self) -> LLTokenizer:
        with self._building:
            if self._built is None:
                self._built = self._read_vocabulary()
            return self._built

    def _read_vocabulary(self) -> LLTokenizer:
        try:
            from llguidance import hf
        except ImportError as error:
            raise ZenError("answers that must fit a schema need llguidance", hint=INSTALL) from error
        ends = sorted(self._tokenizer.eos_token_ids)
        try:
            with self._tokenizing:
                return hf.from_tokenizer(self._tokenizer._tokenizer, n_vocab=self._vocab_size, eos_token=ends)
        except (TypeError, ValueError) as error:
            raise InputError(f"the answers of this base cannot be constrained: {error}", field="tokenizer") from error


class _Compiled:
    """A checked grammar."""

    def __init__(self, made: LLMatcher, vocab_size: int, ends: Sequence[int]) -> None:
        self._made = made
        self._vocab_size = vocab_size
        self._ends = ends

    def matcher(self) -> ConstrainedMatcher:
        """A new answer's state, in some microseconds."""
        return ConstrainedMatcher(self._made.deep_copy(), self._vocab_size, self._ends)


class ConstrainedMatcher:
    """One answer's state. failure: why the answer cannot go on though its grammar wants more; then only its end is allowed.

    A token that ends the turn is allowed exactly where the grammar may end, and after the end nothing else is.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._only_end = np.zeros(vocab_size, bool)
        self._only_end[list(ends)] = True

    @property
    def failure(self) -> InputError | None:
        """The error of an answer that was given up on: its schema asked too much of the parser at some token."""
        if not self._matcher.is_error():
            return None
        return InputError(
            "the JSON schema is too complex to follow through this answer",
            found=self._matcher.stop_reason(),
            hint="simplify its patterns, or ask for fewer optional properties in one object",
        )

    def consume(self, tokens: Sequence[int]) -> None:
        """The answer went on with `tokens`; ends of the turn may repeat."""
        for token in tokens:
            if self._matcher.is_stopped():  # what follows is the end of the turn
                return
            self._matcher.consume_token(int(token))

    def allowed(self) -> NDArray[np.bool_]:
        """bool [V]: which tokens may come next. There is always one."""
        mask = _mask(self._matcher, self._vocab_size)
        return self._only_end if self._matcher.is_error() else mask


def logits_processor(matcher: Matcher, prompt_tokens: int | None = None) -> Callable[[mx.array, mx.array], mx.array]:
    """mlx-lm's form of a matcher: (tokens, logits [1, V]) -> logits with -inf where a token is not allowed.

    tokens: the prompt and the answer so far; it may come twice with the same ones. prompt_tokens: how many are the
    prompt's; None for as many as the first call has. Reading them waits for the step before.
    """
    import mlx.core as mx

    seen = prompt_tokens

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        nonlocal seen
        length = int(tokens.shape[0])
        if seen is not None and length > seen:
            matcher.consume(cast(list[int], tokens[seen:].tolist()))
        seen = length if seen is None else max(seen, length)
        allowed = matcher.allowed()
        more = logits.shape[-1] - len(allowed)  # words that a profile adds
        return mx.where(mx.array(np.pad(allowed, (0, more)) if more else allowed), logits, -mx.inf)

    return process


def _limits() -> LLParserLimits:
    """Bounds on the work of one step: about 10 ms on one core, and 100 MB of states."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=50_000,
        max_grammar_size=20_000,
        verbose_errors=False,
    )


def _probe(matcher: LLMatcher, vocab_size: int) -> None:
    """ValueError for a grammar that the parser gives up on within the first tokens."""
    for _ in range(_PROBE_TOKENS):
        allowed = np.flatnonzero(_mask(matcher, vocab_size))
        if matcher.is_error():
            raise ValueError(_reason(matcher))
        if matcher.is_stopped() or not matcher.consume_token(int(allowed[-1])):
            return


def _mask(matcher: LLMatcher, vocab_size: int) -> NDArray[np.bool_]:
    words = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(words, count=vocab_size, bitorder="little").view(bool)


def _reason(matcher: LLMatcher) -> str:
    """llguidance's sentence, without what follows about its own state."""
    text = " ".join(matcher.get_error().partition("<non-verbose/>")[0].split())
    return text[:_REASON_CHARACTERS] or "it is not understood"
