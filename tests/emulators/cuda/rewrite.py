"""CUDA C++ -> C++ that g++ takes: comments blanked, `asm` made calls of `ptx::`, `__shared__` made checked storage.

Line numbers stay as they are, so that every report can quote the kernel's own line. Everything else of CUDA (qualifiers,
builtin variables, intrinsics) is plain C++ in `include/`.
"""

from __future__ import annotations

import re
import struct
from functools import cache
from pathlib import Path

INCLUDE = Path(__file__).resolve().parent / "include"

_SKIP = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
_GAP = r"(?:\s|\\\n)*"
_ASM = re.compile(rf"\b(?:asm|__asm__|__asm){_GAP}(?:(?:volatile|__volatile__)\b{_GAP})?\(")
_SHARED = re.compile(r"(?:\b(extern)\s+)?\b__shared__\b([^;]*);")
_STRING = re.compile(r'"((?:\\.|[^"\\])*)"')
_OPERAND = re.compile(r'^(?:\[\w+\]\s*)?"([^"]*)"\s*\((.*)\)$', re.S)
_REGISTER = {"pred": "bool", "f32": "float", "f64": "double"} | {
    f"{kind}{bits}": f"unsigned {name}"
    for bits, name in ((16, "short"), (32, "int"), (64, "long long"))
    for kind in "bus"
}
_INPUTS = "rlhfdn"


class RewriteError(ValueError):
    """The kernel's text cannot be taken; the message says at which line and why."""


def blank_comments(text: str) -> str:
    """Every comment as blanks, lines kept."""
    return _SKIP.sub(lambda m: re.sub(r"[^\n]", " ", m[0]) if m[0].startswith("/") else m[0], text)


def _close(text: str, start: int) -> int:
    """Where the bracket opened at `start` closes; strings are skipped."""
    depth, i = 0, start
    while i < len(text):
        skip = _SKIP.match(text, i)
        if skip:
            i = skip.end()
            continue
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
        i += 1
    raise RewriteError(f"line {text.count(chr(10), 0, start) + 1}: a bracket is never closed")


def split(text: str, separator: str) -> list[str]:
    """`text` cut at each `separator` outside round, square and curly brackets and strings; pieces stripped."""
    parts, depth, last, i = [], 0, 0, 0
    while i < len(text):
        skip = _SKIP.match(text, i)
        if skip:
            i = skip.end()
            continue
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0 and text[i] == separator:
            parts.append(text[last:i].strip())
            last = i + 1
        i += 1
    return [*parts, text[last:].strip()]


@cache
def known_instructions() -> frozenset[str]:
    """The mnemonics that `include/ptx.h` has, dots written as underscores."""
    found = re.findall(r"^inline void (\w+)\(|^PTX_\w+\((\w+)", (INCLUDE / "ptx.h").read_text(), re.M)
    return frozenset(a or b for a, b in found)


def _value(token: str, registers: set[str], operands: int) -> str:
    """A PTX operand as C++: %0 -> _0, a register, an immediate, or an address (its inside)."""
    token = token.strip()
    if token.startswith("["):
        inside = [_value(part, registers, operands) for part in token[1:-1].split("+")]
        return "+".join(inside)
    if re.fullmatch(r"%\d+", token):
        if int(token[1:]) >= operands:
            raise RewriteError(f"operand {token} of {operands}")
        return f"_{token[1:]}"
    if token in registers:
        return token
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", token):
        return f"{struct.unpack('!f', bytes.fromhex(token[2:]))[0]!r}f"
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)[uU]?", token):
        return token
    raise RewriteError(f"cannot read the operand {token!r}")


def _instruction(text: str, registers: set[str], operands: int) -> str:
    """One PTX statement without its semicolon -> C++."""
    if text.startswith(".reg"):
        match = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S)
        if not match or match[1] not in _REGISTER or "<" in match[2]:
            raise RewriteError(f"cannot read the declaration {text!r}")
        names = [name.strip() for name in match[2].split(",")]
        registers.update(names)
        return f"{_REGISTER[match[1]]} {', '.join(names)};"
    match = re.fullmatch(r"(?:@(!?)(%?\w+)\s+)?([a-z][\w.:]*)\s*(.*)", text, re.S)
    if not match:
        raise RewriteError(f"cannot read the instruction {text!r}")
    negated, predicate, mnemonic, arguments = match.groups()
    parts = [p for p in re.split(r"\.(?=\w)", mnemonic) if not re.match(r"L[12]::", p)]
    name = "_".join(parts)
    if name not in known_instructions():
        raise RewriteError(f"the emulator does not know the instruction {mnemonic}")
    flat: list[str] = []
    for argument in split(arguments, ",") if arguments.strip() else []:
        inner = split(argument[1:-1], ",") if argument.startswith("{") else [argument]
        flat += [_value(token, registers, operands) for token in inner]
    guard = f"if ({negated}{_value(predicate, registers, operands)}) " if predicate else ""
    return f"{guard}ptx::{name}({', '.join(flat)});"


def ptx_calls(template: str, operands: int) -> str:
    """The text inside an asm statement -> C++ statements over `_0`, `_1`, ..."""
    registers: set[str] = set()
    statements = []
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", template, flags=re.S)
    while text.strip():
        text = text.strip()
        if text[0] in "{}":
            statements.append(text[0])
            text = text[1:]
            continue
        statement, semicolon, text = text.partition(";")
        if not semicolon:
            raise RewriteError(f"no semicolon after {statement.strip()!r}")
        statements.append(_instruction(statement.strip(), registers, operands))
    return " ".join(statements)


def _asm(inside: str) -> str:
    """What stands between the brackets of `asm(...)` -> a C++ block that calls `ptx::`."""
    sections = split(inside.replace("\\\n", " "), ":")
    if len(sections) > 4:
        raise RewriteError("more than three colons in an asm statement")
    if _STRING.sub("", sections[0]).strip():
        raise RewriteError(f"a plain string is expected in asm, found {_STRING.sub('', sections[0]).strip()!r}")
    template = "".join(_STRING.findall(sections[0])).encode().decode("unicode_escape")
    bound = []
    for section, allowed in ((1, ("=", "+")), (2, ("",))):
        for operand in split(sections[section], ",") if len(sections) > section and sections[section] else []:
            match = _OPERAND.match(operand)
            if not match:
                raise RewriteError(f"cannot read the asm operand {operand!r}")
            constraint, expression = match[1], match[2]
            kind = constraint[-1:]
            if constraint[:-1].rstrip("&") not in allowed or kind not in _INPUTS or (section == 1 and kind == "n"):
                raise RewriteError(f'constraint "{constraint}" cannot stand there')
            if section == 1:
                written = "both" if constraint[0] == "+" else "out"
                bound.append(f"auto&& _{len(bound)} = ptx::{written}_{kind}({expression});")
            else:
                bound.append(f"const auto _{len(bound)} = ptx::in_{kind}({expression});")
    return f"{{ {' '.join(bound)} {ptx_calls(template, len(bound))} }}"


def _declarators(text: str) -> tuple[str, list[tuple[str, str]]]:
    """`T a[n], b` -> (T, [(a, [n]), (b, "")]); commas and brackets inside <> belong to T."""
    nested, depth = "", 0
    for character in text:
        depth += (character == "<") - (character == ">")
        nested += character if depth == 0 or character in "<>" else "\0"
    bracket = nested.find("[") if "[" in nested else len(nested)
    comma = nested.find(",") if "," in nested else len(nested)
    name = re.search(r"(\w+)\s*$", nested[: min(bracket, comma)])
    if not name or not nested[: name.start()].strip():
        raise RewriteError(f"cannot read the shared declaration {text!r}")
    found = []
    for piece in split(text[name.start() :], ","):
        declared, bracket_, extents = piece.partition("[")
        found.append((declared.strip(), bracket_ + extents))
    return text[: name.start()].strip(), found


def _shared(external: str | None, declaration: str) -> str:
    """`__shared__ T a[n], b;` -> references to storage of the running block."""
    alignment = re.search(r"(?:alignas|__align__)\s*\(([^()]*)\)", declaration)
    align = alignment[1] if alignment else "1"
    plain = re.sub(r"(?:alignas|__align__)\s*\([^()]*\)|\bvolatile\b|\bstatic\b", " ", declaration).strip()
    if "=" in plain:
        raise RewriteError("a shared variable cannot be initialised")
    type_, declared = _declarators(plain)
    code = ""
    for name, extents in declared:
        if external:
            if re.sub(r"\s", "", extents) != "[]":
                raise RewriteError(f"extern __shared__ {name} must be an array of unknown size")
            code += f"auto* const {name} = static_cast<{type_}*>(simt_dynamic_shared(alignof({type_}), {align}));"
        else:
            array = f"simt_t<{type_} {extents}>"
            code += (
                f"static int {name}_slot = 0; auto& {name} = *static_cast<{array}*>("
                f'simt_static_shared(&{name}_slot, "{name}", sizeof({array}), alignof({array}), {align}));'
            )
    return code


def rewrite(text: str) -> str:
    """The whole of a kernel's text, line for line. RewriteError: something here that cannot be taken."""
    text = blank_comments(text)

    def keep_lines(original: str, code: str) -> str:
        return code + original.count("\\\n") * "\\\n" + (original.count("\n") - original.count("\\\n")) * "\n"

    done, position = "", 0
    while match := _ASM.search(text, position):
        end = _close(text, match.end() - 1)
        try:
            code = _asm(text[match.end() : end])
        except RewriteError as error:
            raise RewriteError(f"line {text.count(chr(10), 0, match.start()) + 1}: {error}") from None
        done += text[position : match.start()] + keep_lines(text[match.start() : end], code)
        position = end + 1
    text = done + text[position:]

    def shared(match: re.Match[str]) -> str:
        try:
            return keep_lines(match[0], _shared(match[1], match[2].replace("\\\n", " ")))
        except RewriteError as error:
            raise RewriteError(f"line {text.count(chr(10), 0, match.start()) + 1}: {error}") from None

    return _SHARED.sub(shared, text)
