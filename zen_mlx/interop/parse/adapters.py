"""LoRA adapters of mlx-lm and PEFT: arrays and adapter_config.json -> low-rank pairs with their scale.

    mlx-lm  X.lora_a [K, r], X.lora_b [r, N]; experts [E, r, K], [E, N, r]; scale = lora_parameters.scale
    PEFT    X.lora_A.weight [r, K], X.lora_B.weight [N, r]; scale = alpha / r, alpha / sqrt(r) with rslora, alpha and r by
            module where the patterns say so; X.lora_embedding_A [r, N], X.lora_embedding_B [K, r]

Anything that is not W + scale * B A (DoRA, a base changed by the adapter's initialization, ..) is `UnsupportedFormat`.

PEFT runs each pattern as a regular expression, and the first that a module's name ends with counts. One from a file could
take for ever, so only those are read whose time is bounded: names, `\\.`, `^` in front, `$` behind, and at most two of
`.*`, `\\d+`, `[0-9]+`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from ...format.spec import Fail, show
from ...fsio import Json
from .foreign import Entry, Lora, Stored, Whole, check_name, floats

_T = TypeVar("_T")
_MAX_PATTERNS = 4096
_MAX_WILD = 2
_TOKEN = re.compile(r"(?P<wild>\.\*|\\d\+|\[0-9\]\+)|(?P<plain>\\\.|[A-Za-z0-9_.-])")


def first_match(table: Mapping[str, _T], where: str, unsupported: Fail) -> Callable[[str], _T | None]:
    """module name -> value of the first pattern that fits, or None."""
    if len(table) > _MAX_PATTERNS:
        unsupported("too many patterns", field=where, expected=f"<= {_MAX_PATTERNS}", found=len(table))
    plain: dict[str, tuple[int, _T]] = {}
    wild: list[tuple[int, re.Pattern[str], _T]] = []
    for order, (pattern, value) in enumerate(table.items()):
        text, wilds = _translate(pattern, where, unsupported)
        if wilds or pattern.startswith("^"):
            anchored = text if pattern.startswith("^") else rf"(?:.*\.)?{text}"
            wild.append((order, re.compile(anchored, re.DOTALL), value))
        else:
            plain.setdefault(pattern.removesuffix("$").replace("\\.", "."), (order, value))

    def find(module: str) -> _T | None:
        parts = module.split(".")
        ends = (".".join(parts[at:]) for at in range(len(parts)))
        found = [plain[end] for end in ends if end in plain]
        found += [(order, value) for order, pattern, value in wild if pattern.fullmatch(module)]
        return min(found, key=lambda each: each[0])[1] if found else None

    return find


def _translate(pattern: str, where: str, unsupported: Fail) -> tuple[str, int]:
    text = pattern.removeprefix("^").removesuffix("$")
    out, at, wilds = [], 0, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            break
        wilds += match["wild"] is not None
        out.append(match["wild"] or re.escape(match["plain"].removeprefix("\\")))
        at = match.end()
    if at < len(text) or not text or len(text) > 1024 or wilds > _MAX_WILD:
        expected = f"a name with at most {_MAX_WILD} wildcards"
        unsupported("unsupported pattern", field=where, expected=expected, found=show(pattern))
    return "".join(out), wilds


_PREFIX = "base_model.model."
_PEFT = re.compile(r"(?P<module>.+?)\.(?P<key>lora_(?:embedding_)?[AB])(?:\.default)?(?:\.weight)?", re.DOTALL)
_MAX_SCALE = 1e30
_REFUSED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "arrow_config",
    "loftq_config",
    "corda_config",
)
_PLAIN_STARTS = (True, False, None, "true", "gaussian", "eva", "orthogonal")


def is_mlx_adapter(arrays: Mapping[str, Stored]) -> bool:
    """Whether these are the arrays of an mlx-lm adapter."""
    return any(name.endswith((".lora_a", ".lora_b")) for name in arrays)


def is_peft_adapter(arrays: Mapping[str, Stored]) -> bool:
    """Whether these are the arrays of a PEFT adapter."""
    return any(_PEFT.fullmatch(name) for name in arrays)


def read_mlx(arrays: dict[str, Stored], config: Json, fail: Fail, unsupported: Fail) -> dict[str, Entry]:
    """The entries of an mlx-lm adapter; empties `arrays`."""
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        return {name: Whole(floats(arrays.pop(name), show(name), fail)) for name in sorted(arrays)}
    if kind != "lora" or config.get("use_dora"):
        unsupported("not a plain LoRA", field="adapter_config.fine_tune_type", expected="lora", found=show(kind))
    table = config.get("lora_parameters")
    table = table if isinstance(table, dict) else {}
    scale = _number(table.get("scale"), "lora_parameters.scale", fail)
    rank = _count(table.get("rank"), "lora_parameters.rank", fail)
    out: dict[str, Entry] = {}
    for module, pair in _pairs(arrays, r"(.+)\.(lora_[ab])", fail, unsupported).items():
        name = check_name(f"{module}.weight", out, fail)
        first, second, dtype = _two(module, pair, "lora_a", "lora_b", fail)
        experts = first.ndim == 3
        up, down = (second, first) if experts else (second.T, first.T)
        _check_pair(module, up, down, rank, fail)
        out[name] = Lora(up, down, scale, dtype, "linear" if experts else None)
    return out


def read_peft(arrays: dict[str, Stored], config: Json, fail: Fail, unsupported: Fail) -> dict[str, Entry]:
    """The entries of a PEFT adapter; empties `arrays`."""
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        found = show(config["peft_type"])
        unsupported("unsupported kind of adapter", field="adapter_config.peft_type", expected="LORA", found=found)
    for key in _REFUSED:
        if config.get(key):
            found = show(config[key])
            unsupported("not a plain LoRA", field=f"adapter_config.{key}", expected="absent or false", found=found)
    start = config.get("init_lora_weights", True)
    if not isinstance(start, (str, bool, type(None))) or start not in _PLAIN_STARTS:
        unsupported(
            "this adapter belongs to a base that its initialization changed",
            field="adapter_config.init_lora_weights",
            expected=", ".join(map(str, _PLAIN_STARTS)),
            found=show(start),
        )
    scales = _PeftScales(config, fail, unsupported)
    rest = {name: arrays.pop(name) for name in sorted(arrays) if not _PEFT.fullmatch(name)}
    out: dict[str, Entry] = {}
    for module, pair in _pairs(arrays, _PEFT.pattern, fail, unsupported).items():
        plain = module.removeprefix(_PREFIX)
        name = check_name(f"{plain}.weight", out, fail)
        if any(key.startswith("lora_embedding") for key in pair):
            first, second, dtype = _two(module, pair, "lora_embedding_A", "lora_embedding_B", fail)
            up, down, side = first.T, second.T, "embedding"
        else:
            first, second, dtype = _two(module, pair, "lora_A", "lora_B", fail)
            up, down, side = second, first, "linear"
        rank, scale = scales.of(plain)
        _check_pair(module, up, down, rank, fail)
        out[name] = Lora(up, down, scale, dtype, side)
    for name, stored in rest.items():
        plain = re.sub(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)", "", name.removeprefix(_PREFIX))
        if "lora_" in name or not plain.endswith((".weight", ".bias")):
            unsupported("a plain LoRA has no such array", field="name", expected="lora_A, lora_B", found=show(name))
        out[check_name(plain, out, fail)] = Whole(floats(stored, show(name), fail))
    return out


class _PeftScales:
    """rank and scale of a module: the patterns' where one fits, else the adapter's."""

    def __init__(self, config: Json, fail: Fail, unsupported: Fail) -> None:
        self.fail = fail
        self.rank = _count(config.get("r"), "r", fail)
        self.alpha = _number(config.get("lora_alpha"), "lora_alpha", fail)
        self.rslora = bool(config.get("use_rslora"))
        self.patterns = {}
        for key in ("rank_pattern", "alpha_pattern"):
            table = config.get(key) or {}
            if not isinstance(table, dict):
                fail("wrong type", field=f"adapter_config.{key}", expected="an object", found=show(table))
            self.patterns[key] = first_match(table, f"adapter_config.{key}", unsupported)

    def of(self, module: str) -> tuple[int, float]:
        rank, alpha = (self.patterns[key](module) for key in ("rank_pattern", "alpha_pattern"))
        r = self.rank if rank is None else _count(rank, "rank_pattern", self.fail)
        a = self.alpha if alpha is None else _number(alpha, "alpha_pattern", self.fail)
        return r, a / (math.sqrt(r) if self.rslora else r)


def _pairs(arrays: dict[str, Stored], pattern: str, fail: Fail, unsupported: Fail) -> dict[str, dict[str, Stored]]:
    """module -> its two arrays by their last name."""
    out: dict[str, dict[str, Stored]] = {}
    for name in sorted(arrays):
        match = re.fullmatch(pattern, name, re.DOTALL)
        if match is None:
            unsupported("a plain LoRA has no such array", field="name", expected="lora_a, lora_b", found=show(name))
        pair = out.setdefault(match[1], {})
        if match[2] in pair:
            fail("a name occurs twice", field="name", expected="unique names", found=show(name))
        pair[match[2]] = arrays.pop(name)
    return out


def _two(module: str, pair: dict[str, Stored], a: str, b: str, fail: Fail) -> tuple[np.ndarray, np.ndarray, str]:
    """Both arrays in one float type, and how the first was stored."""
    if set(pair) != {a, b}:
        fail("a pair lacks one array", field=show(module), expected=f"{a} and {b}", found=", ".join(sorted(pair)))
    first, second = (floats(pair[key], f"{show(module)}.{key}", fail) for key in (a, b))
    if first.dtype != second.dtype:
        first, second = first.astype("<f4"), second.astype("<f4")
    return first, second, pair[a].dtype


def _check_pair(module: str, up: np.ndarray, down: np.ndarray, rank: int, fail: Fail) -> None:
    where = show(module)
    if up.ndim != down.ndim or up.ndim not in (2, 3) or up.shape[:-2] != down.shape[:-2]:
        fail("a pair's shapes do not match", field=where, expected="two matrices", found=f"{up.shape}, {down.shape}")
    if not up.shape[-1] == down.shape[-2] == rank:
        found = f"{up.shape[-1]} and {down.shape[-2]}"
        fail("the rank differs from the configuration", field=where, expected=rank, found=found)


def _number(value: object, key: str, fail: Fail) -> float:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not -_MAX_SCALE <= number <= _MAX_SCALE:  # NaN is in no range
        fail("bad number", field=f"adapter_config.{key}", expected="a finite number", found=show(value))
    return float(number)


def _count(value: object, key: str, fail: Fail) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        fail("bad rank", field=f"adapter_config.{key}", expected="an integer >= 1", found=show(value))
    return int(value)
