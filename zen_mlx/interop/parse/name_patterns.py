r"""PEFT's patterns for names of modules: `(.*\.)?(PATTERN)$` from the start of the name, and the first that matches counts.

A pattern is a regular expression from a file, and Python's `re` could take for ever over one. Here Python only parses it.
Matching computes, for each node and each place in the name, the set of places where a match of the node can end, which is
polynomial. Only whether a pattern matches counts, so greedy and lazy repeats are the same. Back references, conditions, atomic
groups and possessive repeats depend on the order in which `re` tries, and are not read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from ...format.spec import Fail, show

_T = TypeVar("_T")
_MAX_PATTERNS = 4096
_MAX_LENGTH = 1024
_MAX_STEPS = 20_000_000  # some seconds; 20,000 modules and a few patterns take a fifth of it
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\\?\.[A-Za-z0-9_-]+)*")
_parser: Any = import_module("re._parser")  # the parser of `re`, which has no public name since Python 3.11
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda character: character.isalnum() or character == "_",
}


class _Unread(Exception):
    """A pattern that is not read: what of it is not."""


def all_matches(table: Mapping[str, _T], where: str, unsupported: Fail) -> Callable[[str], list[tuple[str, _T]]]:
    """module name -> (pattern, value) of every pattern that matches, in the table's order."""
    if len(table) > _MAX_PATTERNS:
        unsupported("too many patterns", field=where, expected=f"<= {_MAX_PATTERNS}", found=len(table))
    plain: dict[str, list[tuple[int, str]]] = {}
    others: list[tuple[int, str, Any]] = []
    for order, pattern in enumerate(table):
        if _is_name(pattern):
            plain.setdefault(pattern.replace("\\", ""), []).append((order, pattern))
        else:
            others.append((order, pattern, _parsed(pattern, where, unsupported)))
    budget = _Budget(_MAX_STEPS)

    def find(module: str) -> list[tuple[str, _T]]:
        parts = module.split(".")
        found = [each for at in range(len(parts)) for each in plain.get(".".join(parts[at:]), ())]
        try:
            found += [(order, pattern) for order, pattern, tree in others if _matches(tree, module, budget)]
        except _Unread as error:
            unsupported("unsupported pattern", field=where, expected="a short pattern", found=str(error))
        return [(pattern, table[pattern]) for _, pattern in sorted(found)]

    return find


def _is_name(pattern: str) -> bool:
    r"""Whether the pattern is a name: letters, digits, `_`, `-`, and dots with a `\` in front, or between two plain names.

    A bare dot matches any character, and so any name that the pattern's text is a suffix of: those go the other way.
    """
    return bool(_NAME.fullmatch(pattern)) and pattern.count(".") == pattern.count("\\.")


def _parsed(pattern: str, where: str, unsupported: Fail) -> Any:
    try:
        if len(pattern) > _MAX_LENGTH:
            raise _Unread(f"{len(pattern)} characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's about a pattern's own oddities
            return list(_parser.parse(f"({pattern})$"))
    except (re.error, _Unread, OverflowError, RecursionError) as error:
        expected = f"a regular expression of at most {_MAX_LENGTH} characters"
        unsupported("unsupported pattern", field=where, expected=expected, found=f"{show(pattern)}: {error}"[:200])


class _Budget:
    """Steps that may still be taken for one file."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def take(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise _Unread("one that takes too long")


def _matches(tree: list[Any], name: str, budget: _Budget) -> bool:
    try:
        # `(.*\.)?`: the pattern starts where the name does, or behind a dot with no line end before it.
        dots = {at + 1 for at, each in enumerate(name.partition("\n")[0]) if each == "."}
        return bool(_Matcher(name, budget).ends(tree, {0} | dots, False))
    except RecursionError as error:
        raise _Unread("one that is nested too deeply") from error


class _Matcher:
    """The places where matches of a node end in one name. fold: letters are equal in either case."""

    def __init__(self, name: str, budget: _Budget) -> None:
        self.name, self.budget = name, budget

    def ends(self, nodes: Iterable[Any], starts: set[int], fold: bool) -> set[int]:
        for node, value in nodes:
            self.budget.take(1 + len(starts))
            starts = self._ends(str(node), value, starts, fold)
            if not starts:
                break
        return starts

    def _ends(self, node: str, value: Any, starts: set[int], fold: bool) -> set[int]:
        if node in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            self.budget.take(len(starts) * (len(value) if node == "IN" else 0))
            return {at + 1 for at in starts if at < len(self.name) and _fits(node, value, self.name[at], fold)}
        if node in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = value
            return self._repeated(least, most, inner, starts, fold)
        if node == "SUBPATTERN":
            _, added, removed, inner = value
            if (added | removed) & ~int(re.IGNORECASE):
                raise _Unread("flags other than i")
            return self.ends(inner, starts, (fold or bool(added)) and not removed)
        if node == "BRANCH":
            return set().union(*(self.ends(each, starts, fold) for each in value[1]))
        if node == "AT":
            return {at for at in starts if self._holds(str(value), at)}
        if node in ("ASSERT", "ASSERT_NOT"):
            direction, inner = value
            return {at for at in starts if self._looks(direction, inner, at, fold) == (node == "ASSERT")}
        raise _Unread(node)

    def _repeated(self, least: int, most: Any, inner: Any, starts: set[int], fold: bool) -> set[int]:
        """Once a round adds no place, no later one does."""
        for _ in range(least):
            following = self.ends(inner, starts, fold)
            if following == starts or not following:
                starts = following
                break
            starts = following
        reached, new, rounds = set(starts), starts, least
        while new and rounds < int(most):
            new = self.ends(inner, new, fold) - reached
            reached |= new
            rounds += 1
        return reached

    def _looks(self, direction: int, inner: Any, at: int, fold: bool) -> bool:
        if direction > 0:
            return bool(self.ends(inner, {at}, fold))
        width = inner.getwidth()[0]  # the parser takes a look behind of one width only
        return at >= width and at in self.ends(inner, {at - width}, fold)

    def _holds(self, place: str, at: int) -> bool:
        if place in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return at == 0
        if place == "AT_END":
            return at == len(self.name) or (at == len(self.name) - 1 and self.name[at] == "\n")
        if place == "AT_END_STRING":
            return at == len(self.name)
        word = _CATEGORIES["CATEGORY_WORD"]
        around = [0 <= index < len(self.name) and word(self.name[index]) for index in (at - 1, at)]
        return (around[0] != around[1]) == (place == "AT_BOUNDARY")


def _fits(node: str, value: Any, character: str, fold: bool) -> bool:
    cases = {character, character.lower(), character.upper()} if fold else {character}
    if node == "ANY":
        return character != "\n"
    if node == "IN":
        return _in(value, cases)
    return (chr(value) in cases) == (node == "LITERAL")


def _in(items: list[Any], cases: set[str]) -> bool:
    negated = str(items[0][0]) == "NEGATE"
    return any(_item(str(node), value, each) for node, value in items for each in cases) != negated


@cache
def _category(name: str) -> tuple[Callable[[str], bool], bool]:
    return _CATEGORIES[name.replace("_NOT_", "_")], "_NOT_" not in name


def _item(node: str, value: Any, character: str) -> bool:
    if node == "LITERAL":
        return chr(value) == character
    if node == "RANGE":
        return bool(value[0] <= ord(character) <= value[1])
    if node == "CATEGORY":
        test, wanted = _category(str(value))
        return test(character) == wanted
    return False  # NEGATE, which turns all the others round
