"""Metal text -> C++ text, token by token: address spaces become distinct types, and the kernel an ordinary function.

    const device T* p       msl::ptr<msl::device, const T> p        device T& r             msl::ref<msl::device, T> r
    constant float& s       const float& s                          thread float* t         float* t
    threadgroup T a[8][9];  const auto a = msl::shared<T[8][9]>(id, "a");
    threadgroup T (&a)[9]   msl::ptr<msl::threadgroup, T> a         threadgroup T (*a)[9]   msl::ptr<msl::threadgroup, T[9]> a
    &x[i]                   (x + (i))                               v.xz                    v.swizzle(0, 2)
    1.0h                    half(1.0f)                              auto v = e              auto v = msl::take_value <<= e

Lines stay where they are. RewriteError: what Metal's compiler would refuse and C++ would not. It knows nothing about data.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .scopes import SPACES, check
from .tokens import RewriteError, Text

QUALIFIERS = ("const", "volatile")
SCALAR = r"bool|char|short|int|long|float|half|bfloat|uchar|ushort|uint|ulong|unsigned|size_t|u?int(?:8|16|32|64)_t|b?float16_t"
VALUE_TYPE = re.compile(rf"(?:auto|{SCALAR}|(?:char|short|int|float|half|bfloat|uchar|ushort|uint)[234])$")
SWIZZLE = re.compile(r"[xyzw]{2,4}$|[rgba]{2,4}$")


ABSENT = {
    "double": "Metal has no double",
    "std": "Metal has no namespace std",
    **{
        word: f"Metal has no `{word}`"
        for word in (
            "throw",
            "try",
            "new",
            "delete",
            "virtual",
            "dynamic_cast",
            "typeid",
            "thread_local",
            "register",
            "goto",
            "noexcept",
        )
    },
}


class Parameter(NamedTuple):
    """One argument of the kernel: its rewritten C++ type, its name, `buffer` with an index, or a thread attribute."""

    type: str
    name: str
    attribute: str
    index: int


class Kernel(NamedTuple):
    """A rewritten text: C++, the kernel's function name with its template arguments, and its parameters."""

    text: str
    call: str
    parameters: list[Parameter]


class Rewriter(Text):
    def __init__(self, text: str, name: str) -> None:
        super().__init__(text, name)
        self.inside_kernel = range(0)
        self.declarations = 0

    def type_end(self, index: int) -> int:
        """The last token of the type name that starts at `index`: `unsigned int`, `metal::vec<T, 4>`, `T`."""
        if self.tokens[index].kind != "name":
            raise self.fail(index, f"a type is expected before '{self.text(index)}'")
        end = index
        while self.text(end) in ("unsigned", "signed", "struct", "typename", "long") and self.text(self.next(end)) in (
            "int", "long", "short", "char",
        ):  # fmt: skip
            end = self.next(end)
        if self.text(end) in ("struct", "typename"):
            end = self.next(end)
        while True:
            after = self.next(end)
            if self.text(after) == "<":
                end = self.closing(after)
            elif self.text(after) == "::":
                end = self.next(after)
            else:
                return end

    def rewrite(self) -> Kernel:
        parameters, call = self.kernel_signature()
        for index in range(len(self.tokens)):
            token = self.tokens[index]
            if token.kind == "name" and token.text in SPACES:
                self.address_space(index)
        for index in range(len(self.tokens)):
            self.small_things(index)
        typed = []
        for first, last, name, attribute, number in parameters:
            typed.append(Parameter(self.source(first, last), name, attribute, number))
        return Kernel("".join(t.text for t in self.tokens), call, typed)

    def kernel_signature(self) -> tuple[list[tuple[int, int, str, str, int]], str]:
        """Takes the attributes and the explicit instantiation away; the parameters as (first, last token of type, ...)."""
        start = next(
            (
                i
                for i, t in enumerate(self.tokens)
                if t.text == "kernel"
                and self.text(self.previous(i)) == "["
                and self.text(self.next(self.next(self.next(i)))) == "void"
            ),
            None,
        )
        if start is None:
            raise RewriteError(f"{self.name}: no [[kernel]] in the text")
        self.blank(self.previous(self.previous(start)), self.next(self.next(start)))
        name = self.next(self.next(self.next(self.next(start))))
        opened = self.next(name)
        closed = self.closing(opened)
        body = self.next(closed)
        self.inside_kernel = range(body, self.closing(body))
        call = self.text(name)
        rest = self.next(self.inside_kernel.stop)
        if rest < len(self.tokens):  # template [[host_name("...")]] [[kernel]] decltype(f<...>) f<...>;
            angle = next(i for i in range(rest, len(self.tokens)) if self.text(i) == "<")
            call += self.source(angle, self.closing(angle))
            self.blank(rest, len(self.tokens) - 1)
        parameters, first, depth = [], self.next(opened), 0
        index = first
        while index <= closed:
            if self.text(index) in "([{<":
                depth += 1
            elif self.text(index) in ")]}>" and index != closed:
                depth -= 1
            if index == closed or (self.text(index) == "," and depth == 0):
                parameters.append(self.parameter(first, self.previous(index)))
                first = self.next(index)
            index = self.next(index)
        return parameters, call

    def parameter(self, first: int, last: int) -> tuple[int, int, str, str, int]:
        start = next(i for i in range(first, last) if self.text(i) == "[" and self.text(self.next(i)) == "[")
        word = self.next(self.next(start))
        number = int(self.text(self.next(self.next(word)))) if self.text(word) == "buffer" else -1
        attribute, name = self.text(word), self.previous(start)
        self.blank(start, last)
        return first, self.previous(name), self.text(name), attribute, number

    def address_space(self, at: int) -> None:
        """Rewrites the declaration, parameter or cast whose address space is the token `at`."""
        space = self.text(at)
        first = at
        while self.text(self.previous(first)) in (*QUALIFIERS, "static", "constexpr"):
            first = self.previous(first)
        words = {self.text(i) for i in range(first, at)}
        index = self.next(at)
        while self.text(index) in (*QUALIFIERS, "constexpr"):
            words.add(self.text(index))
            index = self.next(index)
        end = self.type_end(index)
        after = self.next(end)
        while self.text(after) in QUALIFIERS:
            words.add(self.text(after))
            after = self.next(after)
        const = "const " if "const" in words or space == "constant" else ""
        kind = self.text(after)
        name = self.source(index, end)
        if space == "thread":
            self.blank(at, at)
            return
        if kind == "*":
            replaced, last = f"msl::ptr<msl::{space}, {const}{name}>", after
        elif kind == "&":
            replaced, last = self.reference(space, const, name), after
        elif kind == "(" and self.text(self.next(after)) in ("*", "&"):
            replaced, last = self.array_parameter(space, const, name, after)
        elif space == "threadgroup":
            self.shared_declaration(at, first, index, end, name)
            return
        elif space == "constant":
            self.blank(at, at)
            if not words & {"const", "constexpr"}:
                self.tokens[at].text = "const"
            return
        elif kind in (",", ">", ")") or self.tokens[after].kind == "name":
            raise self.fail(at, f"'{space} {name}' is neither a pointer nor a reference")
        else:
            raise self.fail(at, f"'{space} {name} {kind}' is not understood")
        self.emit(first, last, index, end, replaced)

    def reference(self, space: str, const: str, name: str) -> str:
        if space == "constant" or (space == "device" and const):
            return f"const {name}&"
        return f"msl::ref<msl::{space}, {name}>"

    def array_parameter(self, space: str, const: str, name: str, opened: int) -> tuple[str, int]:
        sign = self.next(opened)
        variable = self.next(sign)
        last = self.next(variable)
        if self.text(last) != ")":
            raise self.fail(opened, f"this declarator of '{space}' is not understood")
        dimensions = []
        while self.text(self.next(last)) == "[":
            closed = self.closing(self.next(last))
            dimensions.append(self.source(self.next(last), closed))
            last = closed
        inner = "".join(dimensions[self.text(sign) == "&" :])
        return f"msl::ptr<msl::{space}, {const}{name}{inner}> {self.text(variable)}", last

    def emit(self, first: int, last: int, keep_first: int, keep_last: int, replaced: str) -> None:
        """`replaced` instead of tokens `first` to `last`. The type inside it may hold address spaces of its own: none known."""
        if any(self.text(i) in SPACES for i in range(keep_first, keep_last + 1)):
            raise self.fail(first, "an address space inside the type of another is not understood")
        self.blank(first, last)
        self.tokens[first].text = replaced + self.tokens[first].text + " "

    def shared_declaration(self, at: int, first: int, index: int, end: int, name: str) -> None:
        if at not in self.inside_kernel:
            raise self.fail(
                at, "threadgroup variables can be declared only in the kernel's own body, not in a function it calls"
            )
        stop = next(i for i in range(end, len(self.tokens)) if self.text(i) == ";")
        pieces, variable = [], self.next(end)
        while variable < stop:
            if self.tokens[variable].kind != "name":
                raise self.fail(variable, "this threadgroup declaration is not understood")
            after, dimensions = self.next(variable), ""
            while self.text(after) == "[":
                closed = self.closing(after)
                dimensions += self.source(after, closed)
                after = self.next(closed)
            if self.text(after) not in (",", ";"):
                raise self.fail(variable, "a threadgroup variable cannot be initialised")
            call = f'msl::shared<{name}{dimensions or "[1]"}>({self.declarations}, "{self.text(variable)}")'
            pieces.append(f"const auto {self.text(variable)} = {call if dimensions else '*' + call};")
            self.declarations += 1
            variable = self.next(after)
        self.blank(first, stop)
        self.tokens[first].text = " ".join(pieces)

    def small_things(self, index: int) -> None:
        token = self.tokens[index]
        text = token.text
        if token.kind == "number":
            if match := re.fullmatch(r"([\d.eE+-]+)(h|H|bf|BF)", text):
                digits = match[1] if re.search(r"[.eE]", match[1]) else match[1] + ".0"
                token.text = f"{'half' if match[2] in 'hH' else 'bfloat'}({digits}f)"
            elif re.fullmatch(r"(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", text):
                token.text += "f"  # Metal has no double: a literal without a suffix is a float
            return
        if token.kind == "directive":
            self.directive(index)
            return
        before, after = self.previous(index), self.next(index)
        if token.kind == "name":
            if text in ABSENT and self.text(before) not in (".", "->"):
                raise self.fail(index, ABSENT[text])
            if self.text(before) in (".", "->") and SWIZZLE.fullmatch(text) and self.text(after) != "(":
                places = ["xyzw".find(c) if c in "xyzw" else "rgba".find(c) for c in text]
                token.text = f"swizzle({', '.join(map(str, places))})"
            elif text == "auto" and self.tokens[after].kind == "name" and self.text(self.next(after)) == "=":
                assign = self.next(after)
                self.tokens[assign].text = "= msl::take_value <<="
            elif text == "reinterpret_cast":
                token.text = "msl::pointer_cast"
            elif VALUE_TYPE.fullmatch(text) and self.text(after) in ("*", "&"):
                self.needs_space(index, before, after)
        elif text == "&" and (
            self.text(before) in ("(", ",", "=", "{", "?", ":", "[", ";", "") or self.text(before) == "return"
        ):
            self.address_of_element(index)

    def needs_space(self, index: int, before: int, after: int) -> None:
        """`float* p` without an address space: Metal refuses it. `thread` is gone from the tokens, but not from their lines."""
        while self.text(before) in (*QUALIFIERS, "") and before >= 0:
            if self.tokens[before].kind == "name" and not self.text(before):
                return  # a removed `thread`
            before = self.previous(before)
        if self.text(before) in ("(", ",", ";", "{", "}", "<", ")") and self.tokens[self.next(after)].kind in (
            "name",
            "sign",
        ):
            what = "pointer" if self.text(after) == "*" else "reference"
            raise self.fail(
                index, f"{what} type must have explicit address space qualifier: '{self.text(index)}{self.text(after)}'"
            )

    def address_of_element(self, index: int) -> None:
        """&a.b[i] -> (a.b + (i)) where the subscript ends the expression."""
        name = self.next(index)
        if name >= len(self.tokens) or self.tokens[name].kind != "name":
            return
        end = name
        while self.text(self.next(end)) in (".", "->"):
            end = self.next(self.next(end))
        opened = self.next(end)
        if self.text(opened) != "[":
            return
        closed = self.closing(opened)
        while self.text(self.next(closed)) == "[":
            opened = self.next(closed)
            closed = self.closing(opened)
        if self.text(self.next(closed)) in (".", "->", "("):
            return
        self.tokens[index].text, self.tokens[opened].text, self.tokens[closed].text = "(", " + (", "))"

    def directive(self, index: int) -> None:
        token = self.tokens[index]
        if re.match(r"\s*#\s*include\s*<metal_\w+>", token.text) or re.match(
            r"\s*#\s*pragma\s+(?!METAL\s+internals)", token.text
        ):
            token.text = ""
        elif match := re.match(r"\s*#\s*define\s+\w+(?:\([^)]*\))?(.*)", token.text, re.S):
            if any(re.search(rf"\b{space}\b", match[1]) for space in SPACES):
                raise self.fail(index, "an address space inside a macro is not understood: use a template or an alias")
        elif re.match(r"\s*#\s*include", token.text):
            raise self.fail(index, f"cannot include: {token.text.strip()}")


def rewrite(text: str, name: str) -> Kernel:
    """The C++ form of the text that MLX generates for one kernel. RewriteError with the line of `name`."""
    check(Text(text, name))
    return Rewriter(text, name).rewrite()
