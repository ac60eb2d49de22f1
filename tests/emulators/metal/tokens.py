"""A Metal text as tokens, and walks over them. Comments become spaces; every token knows its line."""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<directive>^[ \t]*\#(?:[^\n\\]|\\.|\\\n)*)|(?P<space>\s+|\\\n)|(?P<name>[A-Za-z_]\w*)
    |(?P<number>(?:0[xX][\da-fA-F']+|(?:\d[\d']*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\w*)|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<sign>->\*?|<<=|>>=|\.\.\.|::|\+\+|--|&&|\|\||[-+*/%&|^=!<>]=|\#\#|[^\w\s])""",
    re.X | re.S | re.M,
)


class RewriteError(Exception):
    """Text that Metal's compiler refuses, or that this rewriter does not know."""


@dataclass
class Token:
    kind: str
    text: str
    line: int


def tokenize(text: str) -> list[Token]:
    tokens, line = [], 1
    for match in TOKEN.finditer(text):
        kind, piece = match.lastgroup or "", match[0]
        if kind == "comment":
            kind, piece = "space", " " + "\n" * piece.count("\n")
        tokens.append(Token(kind, piece, line))
        line += piece.count("\n")
    return tokens


class Text:
    """The tokens of `name`. An index is of a token that is neither space nor directive, or len(tokens)."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.tokens = tokenize(text)

    def fail(self, index: int, words: str) -> RewriteError:
        return RewriteError(f"{self.name}:{self.tokens[index].line}: error: {words}")

    def next(self, index: int) -> int:
        index += 1
        while index < len(self.tokens) and self.tokens[index].kind in ("space", "directive"):
            index += 1
        return index

    def previous(self, index: int) -> int:
        index -= 1
        while index >= 0 and self.tokens[index].kind in ("space", "directive"):
            index -= 1
        return index

    def text(self, index: int) -> str:
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def closing(self, index: int) -> int:
        """The index of the bracket that closes the one at `index`."""
        pairs = {"(": ")", "[": "]", "{": "}", "<": ">"}
        opened, depth = self.text(index), 0
        while index < len(self.tokens):
            if self.text(index) == opened:
                depth += 1
            elif self.text(index) == pairs[opened] or (opened == "<" and self.text(index) == ">>="):
                depth -= 1
                if depth == 0:
                    return index
            elif opened == "<" and self.text(index) in ";{":
                break
            index = self.next(index)
        raise self.fail(min(index, len(self.tokens) - 1), f"'{opened}' is not closed")

    def blank(self, first: int, last: int) -> None:
        """Removes tokens `first` to `last` inclusive; their newlines stay."""
        for index in range(first, last + 1):
            self.tokens[index].text = "\n" * self.tokens[index].text.count("\n")

    def source(self, first: int, last: int) -> str:
        return "".join(" " if t.kind == "space" else t.text for t in self.tokens[first : last + 1]).strip()
