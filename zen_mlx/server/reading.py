"""The text of an answer -> plain text, thoughts and tool calls, whatever pieces it comes in.

Text that may be the beginning of a marker is held back until the next piece shows what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TEXT, THOUGHT, CALL = "text", "thought", "call"


@dataclass(frozen=True)
class Span:
    """What lies between `start` and `end` is a thought or a call. end "": it ends with the answer."""

    kind: str
    start: str
    end: str


@dataclass(frozen=True)
class Found:
    """kind: TEXT, THOUGHT or CALL. A call is whole, without its markers; the others come in pieces."""

    kind: str
    text: str


class Reader:
    """One answer's text. inside: the span that the prompt has already opened."""

    def __init__(self, spans: Sequence[Span] = (), inside: Span | None = None) -> None:
        self._spans = spans
        self._inside = inside
        self._held = ""
        self._after_span = inside is not None

    def feed(self, text: str) -> list[Found]:
        """What is certain now that `text` has come."""
        self._held += text
        return list(self._certain())

    def end(self, cut: bool) -> list[Found]:
        """What is left. cut: the answer was ended by force, so that a call which is still open is not a call."""
        left, self._held = self._held, ""
        if self._inside is None:
            return list(self._plain(left))
        if self._inside.kind == CALL:
            return [] if cut or self._inside.end else [Found(CALL, left)]
        return [Found(THOUGHT, left)] if left else []

    def _certain(self) -> Iterator[Found]:
        while True:
            before = len(self._held), self._inside
            yield from self._outside() if self._inside is None else self._within(self._inside)
            if before == (len(self._held), self._inside):
                return

    def _outside(self) -> Iterator[Found]:
        places = [(self._held.find(span.start), span) for span in self._spans]
        places = [place for place in places if place[0] >= 0]
        if places:
            at, span = min(places, key=lambda place: place[0])
            yield from self._plain(self._held[:at])
            self._held, self._inside = self._held[at + len(span.start) :], span
            return
        safe = len(self._held) - max((_overlap(self._held, span.start) for span in self._spans), default=0)
        yield from self._plain(self._held[:safe])
        self._held = self._held[safe:]

    def _within(self, span: Span) -> Iterator[Found]:
        at = self._held.find(span.end) if span.end else -1
        if at >= 0:
            inner, self._held = self._held[:at], self._held[at + len(span.end) :]
            self._inside, self._after_span = None, True
            if inner or span.kind == CALL:
                yield Found(span.kind, inner)
        elif span.kind == THOUGHT:
            safe = len(self._held) - _overlap(self._held, span.end)
            if safe:
                yield Found(THOUGHT, self._held[:safe])
            self._held = self._held[safe:]

    def _plain(self, text: str) -> Iterator[Found]:
        """Text, without the blank lines that models write after a thought and between calls."""
        if self._after_span:
            text = text.lstrip()
        if text:
            self._after_span = False
            yield Found(TEXT, text)


def _overlap(text: str, marker: str) -> int:
    """Characters at the end of `text` that `marker` may begin with."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0
