"""Content of a `.bitdelta` file: the profile and its tensors, with the rules for names, shapes and facts.

Both `read` and `write` take every rule from here and from `layout`, so they cannot disagree.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Protocol

from ..codec.parts import Part
from ..fsio import Json

MAGIC = b"BITDELTA"
PREFIX_BYTES = 64
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 65_536
MAX_DIMS = 8
MAX_DIM = 2**31 - 1
MAX_NAME_BYTES = 1024
MAX_TEXT = 65_536
MAX_OBJECT_BYTES = 56 << 20
"""What the reader's Python objects may take beside the payload; see `layout.object_bytes`."""
MAX_COUNT = 2**63 - 1
PIECE_BYTES = 4 << 20
TENSOR_ALIGN = 64
IDENTITY = ("function", "text_rules")
"""Keys of `base` that profiles of older versions do not have: a base is compared by what a profile has."""
HEADER_FIELDS = (
    "base",
    "layouts",
    "metrics",
    "model_count",
    "payload_sha256",
    "profile",
    "strings",
    "target_count",
    "tensors",
)
_CREATED = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")
_DIGEST = re.compile(r"[0-9a-f]{16,128}")
_DIGITS = re.compile(r"[0-9]+")


class Fail(Protocol):
    """Raises the caller's kind of error; the reader's names the file."""

    def __call__(
        self, message: str, *, field: str, expected: object = None, found: object = None, hint: str | None = None
    ) -> NoReturn: ...


@dataclass(frozen=True, slots=True, eq=False)
class DeltaTensor:
    """One parameter's delta: its logical shape [E.., N, K] or [N] and the parts whose sum it is."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: its shape, the layout of its parts, and `nbytes` of payload from `offset` on.

    rows: R of its `rows` part, None without one.
    """

    shape: tuple[int, ...]
    layout: tuple[Json, ...]
    offset: int
    nbytes: int
    rows: int | None = None


@dataclass(kw_only=True)
class Facts:
    """What a header says of the whole file.

    info: the header's `profile`. target_count: elements of all target weights of the base. model_count: elements of the
    whole fine-tuned model. sha256: hex of the digest at byte 24, which covers the payload's (None for version 1).
    """

    info: Json = field(default_factory=dict)
    base: Json = field(default_factory=dict)
    metrics: Json = field(default_factory=dict)
    target_count: int
    model_count: int
    version: int = 2
    path: Path | None = None
    file_bytes: int | None = None
    sha256: str | None = None

    @property
    def bits_per_weight(self) -> float | None:
        """8 * file bytes / target_count; None before there is a file."""
        return None if self.file_bytes is None else 8 * self.file_bytes / self.target_count

    @property
    def ratio_fp32(self) -> float | None:
        """4 * model_count / file bytes; None before there is a file."""
        return None if self.file_bytes is None else 4 * self.model_count / self.file_bytes

    @property
    def ratio_fp16(self) -> float | None:
        """2 * model_count / file bytes; None before there is a file."""
        return None if self.file_bytes is None else 2 * self.model_count / self.file_bytes


@dataclass(kw_only=True)
class Profile(Facts):
    """A whole profile: facts, and the deltas by parameter name."""

    tensors: dict[str, DeltaTensor]


@dataclass(kw_only=True)
class Header(Facts):
    """A profile without its payload: facts, and where each tensor lies."""

    tensors: dict[str, TensorInfo]


def now() -> str:
    """The time now as the format writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def profile_info(name: str, created: str, method: str) -> Json:
    """The `profile` object of a header, made by this program."""
    from importlib.metadata import version

    tool = f"zen-mlx {version('zen-mlx')}"
    return {"name": name, "created": created, "tool": tool, "method": method, "license": "not stated"}


def canonical(value: object) -> str:
    """The one JSON text of `value`. Errors: ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def split_name(name: str) -> tuple[str, str]:
    """Split after the dot that follows the first all-digit component: `a.0.b` -> (`a.0.`, `b`); none -> ("", name)."""
    at = 0
    for component in name.split(".")[:-1]:
        at += len(component) + 1
        if _DIGITS.fullmatch(component):
            return name[:at], name[at:]
    return "", name


def align(offset: int, to: int) -> int:
    """The least multiple of `to` that is >= offset."""
    return -(-offset // to) * to


def show(value: object) -> str:
    """`value` for an error message, cut at 80 characters."""
    if isinstance(value, str):
        value = value[:100]
    elif isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    elif isinstance(value, (list, dict)):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_shape(shape: object, where: str, fail: Fail) -> None:
    """A list of 1 to 8 exact integers from 1 to 2^31 - 1."""
    if not isinstance(shape, (list, tuple)) or not 1 <= len(shape) <= MAX_DIMS:
        fail("bad shape", field=where, expected=f"1 to {MAX_DIMS} dimensions", found=show(shape))
    for dim in shape:
        if type(dim) is not int or not 1 <= dim <= MAX_DIM:
            fail("bad dimension", field=where, expected=f"an integer from 1 to {MAX_DIM}", found=show(dim))


def check_facts(header: Json, fail: Fail) -> None:
    """Types of `profile`, `base`, `metrics` and the counts. Unknown keys may hold scalars or flat containers."""
    for name in ("profile", "base", "metrics"):
        value = header[name]
        if not isinstance(value, dict):
            fail("wrong type", field=name, expected="an object", found=show(value))
        for key, entry in value.items():
            _check_flat(entry, f"{name}.{show(key)[1:-1]}", fail, digests_only=name == "metrics")
    info, base = header["profile"], header["base"]
    if not isinstance(info.get("name"), str):
        fail("wrong type", field="profile.name", expected="a string", found=show(info.get("name")))
    for key in ("tool", "method", "license"):
        if key in info and not isinstance(info[key], str):
            fail("wrong type", field=f"profile.{key}", expected="a string", found=show(info[key]))
    if "created" in info and not (isinstance(info["created"], str) and _CREATED.fullmatch(info["created"])):
        fail("bad time", field="profile.created", expected="YYYY-MM-DDTHH:MM:SSZ", found=show(info["created"]))
    if "verified" in base and not isinstance(base["verified"], bool):
        fail("wrong type", field="base.verified", expected="true or false", found=show(base["verified"]))
    for name in ("target_count", "model_count"):
        if type(header[name]) is not int or not 1 <= header[name] <= MAX_COUNT:
            fail("bad count", field=name, expected=f"an integer from 1 to {MAX_COUNT}", found=show(header[name]))


def _check_flat(value: object, where: str, fail: Fail, *, digests_only: bool, inner: bool = False) -> None:
    if isinstance(value, str):
        if digests_only and not _DIGEST.fullmatch(value):
            fail("metrics hold no text", field=where, expected="a number or a hexadecimal digest", found=show(value))
        if len(value) > MAX_TEXT:
            fail("text too long", field=where, expected=f"<= {MAX_TEXT} characters", found=len(value))
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if abs(value) > MAX_COUNT:
            fail("number out of range", field=where, expected=f"<= {MAX_COUNT}", found=show(value))
    elif isinstance(value, float):
        if not math.isfinite(value):
            fail("number out of range", field=where, expected="a finite number", found=show(value))
    elif isinstance(value, (list, dict)) and not inner:
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                fail("wrong type", field=where, expected="string keys", found=show(key))
            _check_flat(entry, f"{where}[{show(key)}]", fail, digests_only=digests_only, inner=True)
    else:
        fail("wrong type", field=where, expected="a JSON scalar or a flat list or object", found=show(value))
