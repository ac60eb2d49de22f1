"""What Metal's compiler refuses in the declarations of a text and C++ does not: a missing address space, a derived class."""

from __future__ import annotations

from .tokens import RewriteError, Text

SPACES = ("device", "constant", "threadgroup", "thread")
OPENING = ("(", "[", "{")


def check(text: Text) -> None:
    """RewriteError at the first declaration that Metal refuses."""
    _lambdas(text)
    _scope(text, text.next(-1), len(text.tokens), "namespace")


def _lambdas(text: Text) -> None:
    for index in range(len(text.tokens)):
        if text.text(index) != "[" or text.text(text.next(index)) not in ("&", "=", "]"):
            continue
        if text.text(text.previous(index)) in ("=", "(", ",", "return", "{", ";", "}"):
            raise text.fail(index, "a lambda needs Metal 3.2")


def _angles(text: Text, index: int) -> int:
    """The index after `<...>` when these are template arguments; else after `index`."""
    try:
        return text.next(text.closing(index))
    except RewriteError:
        return text.next(index)


def _after(text: Text, index: int, stops: tuple[str, ...]) -> int:
    """The first of `stops` at or after `index` that is in no bracket."""
    while index < len(text.tokens) and text.text(index) not in stops:
        index = text.next(text.closing(index)) if text.text(index) in OPENING else text.next(index)
    return index


def _scope(text: Text, index: int, end: int, kind: str) -> None:
    while index < end:
        word = text.text(index)
        if word == "template" and text.text(text.next(index)) == "<":
            index = _angles(text, text.next(index))
        elif word in ("using", "typedef", "static_assert", "friend", "template"):
            index = text.next(_after(text, index, (";",)))
        elif word in ("public", "private", "protected", ";", "}"):
            index = text.next(index)
        elif word == "[" and text.text(text.next(index)) == "[":
            index = text.next(text.closing(index))
        elif word in ("namespace", "struct", "class", "union", "enum"):
            index = _named_scope(text, index, word)
        else:
            index = _declaration(text, index, kind)


def _named_scope(text: Text, index: int, word: str) -> int:
    opened = index
    while text.text(opened) not in ("{", ";", "(", "=", ""):
        if text.text(opened) == "<":
            opened = _angles(text, opened)
            continue
        if text.text(opened) == ":" and word in ("struct", "class"):
            raise text.fail(opened, "derived classes are not supported in Metal")
        opened = text.next(opened)
    if text.text(opened) != "{":
        return (
            _declaration(text, text.next(index), "namespace") if text.text(opened) in ("(", "=") else text.next(opened)
        )
    closed = text.closing(opened)
    if word != "enum":
        _scope(text, text.next(opened), closed, "namespace" if word == "namespace" else "struct")
    return text.next(closed) if word == "namespace" else text.next(_after(text, closed, (";",)))


def _declaration(text: Text, first: int, kind: str) -> int:
    """Checks the variable or function that starts at `first`; the index after it."""
    words, index = set(), first
    while text.text(index) not in ("(", "=", ";", "{", ""):
        words.add(text.text(index))
        if text.text(index) == "[":
            index = text.next(text.closing(index))
        elif text.text(index) == "<":
            index = _angles(text, index)
        elif text.text(index) == "operator":
            index = text.next(text.next(index))
            index = index if text.text(index) == "(" else _after(text, index, ("(",))
            break
        elif text.text(index) in ("__attribute__", "alignas"):
            index = text.next(text.closing(text.next(index)))
        else:
            index = text.next(index)
    if text.text(index) == "(":
        return _function(text, index)
    if kind == "namespace" and "constant" not in words and "extern" not in words:
        raise text.fail(first, "program scope variable must reside in constant address space")
    if kind == "struct" and "static" in words and "constant" not in words:
        raise text.fail(first, "static data member must reside in constant address space")
    return text.next(_after(text, index, (";",)))


def _function(text: Text, opened: int) -> int:
    closed = text.closing(opened)
    words, start = [], text.next(opened)
    index = start
    while index <= closed:
        word = text.text(index)
        if index == closed or word == ",":
            _parameter(text, start, words)
            start, words = text.next(index), []
        elif word == "=":
            index = _default(text, index, closed)
            continue
        else:
            words.append(word)
            if word == "<":
                index = _angles(text, index)
                continue
        index = text.next(index)
    index = _after(text, text.next(closed), ("{", ";", "="))
    if text.text(index) == "{":
        return text.next(text.closing(index))
    return text.next(_after(text, index, (";",)))


def _default(text: Text, index: int, closed: int) -> int:
    while index < closed and text.text(index) != ",":
        index = text.next(text.closing(index)) if text.text(index) in OPENING else text.next(index)
    return index


def _parameter(text: Text, start: int, words: list[str]) -> None:
    sign = next((word for word in words if word in ("*", "&", "&&")), None)
    if sign and not set(words) & set(SPACES):
        what = "pointer" if sign == "*" else "reference"
        raise text.fail(start, f"{what} type must have explicit address space qualifier")
