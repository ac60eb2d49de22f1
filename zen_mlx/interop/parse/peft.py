r"""PEFT's LoRA adapters, up to 0.21: arrays and adapter_config.json -> low-rank pairs with their scale.

    X.lora_A.weight [r, K], X.lora_B.weight [N, r]; X.lora_embedding_A [r, N], X.lora_embedding_B [K, r]
    experts, from `target_parameters`: X.lora_A.weight [E r, K], X.lora_B.weight [N, r E]: E outside in A, inside in B; of two
    parameters of X the one that the model declares first, gate_up_proj, is X.base_layer's
    scale = alpha / r, alpha / sqrt(r) with rslora, alpha and r by module where the patterns say so

Anything that is not W + scale * B A (DoRA, a base changed by the adapter's initialization, ..) is `UnsupportedFormat`. Facts:
peft 0.21.2, `tuners/lora/layer.py` (`ParamWrapper`), `utils/other.py` (`get_pattern_key`), `utils/save_and_load.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

import numpy as np

from ...format.spec import Fail, show
from ...fsio import Json
from .adapters import both, check_pair, count_of, number_of, pairs_of
from .foreign import Entry, Lora, Stored, Whole, check_name, floats
from .name_patterns import all_matches

_PREFIX = "base_model.model."
_PEFT = re.compile(r"(?P<module>.+?)\.(?P<key>lora_(?:embedding_)?[AB])(?:\.default)?(?:\.weight)?", re.DOTALL)
_REFUSED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "layer_replication",
    "arrow_config",
    "loftq_config",
    "corda_config",
    "kasa_config",
    "monteclora_config",
)
_PLAIN_STARTS = (True, False, None, "true", "gaussian", "eva", "orthogonal")
_EXPERTS = ("down_proj", "gate_up_proj")
"""The parameters of a module of experts, from the outermost wrapper to the innermost."""


def is_peft_adapter(arrays: Mapping[str, Stored]) -> bool:
    """Whether these are the arrays of a PEFT adapter."""
    return any(_PEFT.fullmatch(name) for name in arrays)


def read_peft(
    arrays: dict[str, Stored], config: Json, fail: Fail, unsupported: Fail
) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """The entries of a PEFT adapter, and what a person should know of it; empties `arrays`."""
    _check_kind(config, unsupported)
    scales = _PeftScales(config, fail, unsupported)
    targets = _Parameters(config, fail, unsupported)
    rest = {name: arrays.pop(name) for name in sorted(arrays) if not _PEFT.fullmatch(name)}
    _check_rest(rest, unsupported)
    out: dict[str, Entry] = {}
    pairs = pairs_of(arrays, _PEFT.pattern, fail, unsupported)
    modules = {module.removeprefix(_PREFIX) for module in pairs}
    for module, pair in pairs.items():
        plain = module.removeprefix(_PREFIX)
        parameter = targets.of(plain, modules)
        rank, scale = scales.of(parameter or plain)
        if parameter is None or parameter == f"{plain}.weight":
            name, entry = f"{plain}.weight", _pair(module, pair, rank, scale, fail)
        else:
            name, entry = f"{parameter}.weight", _experts(module, pair, rank, scale, fail)
        out[check_name(name, out, fail)] = entry
    for name, stored in rest.items():
        plain = re.sub(r"\.modules_to_save(?:\.default)?(?=\.)", "", name.removeprefix(_PREFIX))
        # A copy of a layer under a pair keeps its `.base_layer`: the two are one parameter, and both may be there.
        out[check_name(plain, out, fail)] = Whole(floats(stored, show(name), fail), alone=True)
    return out, scales.notes()


def _check_kind(config: Json, unsupported: Fail) -> None:
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        found = show(config["peft_type"])
        unsupported("unsupported kind of adapter", field="adapter_config.peft_type", expected="LORA", found=found)
    for key in _REFUSED:
        if config.get(key):
            unsupported(
                "not a plain LoRA",
                field=f"adapter_config.{key}",
                expected="absent or false",
                found=show(config[key]),
                hint=MERGE,
            )
    start = config.get("init_lora_weights", True)
    if not isinstance(start, (str, bool, type(None))) or start not in _PLAIN_STARTS:
        unsupported(
            "this adapter belongs to a base that its initialization changed",
            field="adapter_config.init_lora_weights",
            expected=", ".join(map(str, _PLAIN_STARTS)),
            found=show(start),
            hint=MERGE,
        )


MERGE = (
    "merge it into its base with PEFT (merge_and_unload, save_pretrained) and give that folder to `zen compress`, "
    "or train a plain LoRA"
)
_EXTRA = {
    "lora_magnitude_vector": "DoRA's magnitudes",
    "trainable_tokens": "trainable tokens",
    ".bias": "a bias of the LoRA itself",
}


def _check_rest(names: Collection[str], unsupported: Fail) -> None:
    """Every array that is no pair is a parameter in full."""
    for name in names:
        extra = next(
            (what for key, what in _EXTRA.items() if key in name and (key != ".bias" or "lora_" in name)), None
        )
        if extra or "lora_" in name or not name.endswith((".weight", ".bias")):
            expected, found = "lora_A, lora_B", f"{extra}: {show(name)}" if extra else show(name)
            unsupported(
                "a plain LoRA has no such array",
                field="name",
                expected=expected,
                found=found,
                hint=MERGE if extra else None,
            )


def _pair(module: str, pair: dict[str, Stored], rank: int, scale: float, fail: Fail) -> Lora:
    """A layer's pair, or an embedding's."""
    if any(key.startswith("lora_embedding") for key in pair):
        first, second, dtype = both(module, pair, "lora_embedding_A", "lora_embedding_B", fail)
        up, down, side = first.T, second.T, "embedding"
    else:
        first, second, dtype = both(module, pair, "lora_A", "lora_B", fail)
        up, down, side = second, first, "linear"
    check_pair(module, up, down, rank, fail)
    return Lora(up, down, scale, dtype, side)


def _experts(module: str, pair: dict[str, Stored], rank: int, scale: float, fail: Fail) -> Lora:
    """The pairs of stacked experts: A [E r, K] -> down [E, r, K], B [N, r E] -> up [E, N, r]."""
    first, second, dtype = both(module, pair, "lora_A", "lora_B", fail)
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[1] or first.shape[0] % rank:
        expected = f"[E * {rank}, K] and [N, {rank} * E]"
        fail(
            "a pair of experts has the wrong shapes",
            field=show(module),
            expected=expected,
            found=f"{first.shape}, {second.shape}",
        )
    count = first.shape[0] // rank
    down = first.reshape(count, rank, first.shape[1])
    up = np.ascontiguousarray(second.reshape(second.shape[0], rank, count).transpose(2, 0, 1))
    return Lora(up, down, scale, dtype)


class _Parameters:
    """Which parameter of its module a pair is for: the config's `target_parameters` say it, not the names of the arrays."""

    def __init__(self, config: Json, fail: Fail, unsupported: Fail) -> None:
        self.unsupported = unsupported
        found = config.get("target_parameters") or []
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            fail("wrong type", field="adapter_config.target_parameters", expected="a list of names", found=show(found))
        self.names = tuple(found)

    def of(self, module: str, modules: set[str]) -> str | None:
        """The full name of the parameter, None where the module as a whole is the target."""
        inner = module.endswith(".base_layer")
        holder = module.removesuffix(".base_layer")
        leaves = {each.rpartition(".")[2] for each in self.names if self._is_for(each, holder)}
        if leaves == {"weight"} and not inner:
            return f"{holder}.weight"
        if holder.rpartition(".")[2] != "experts":
            return None
        present = {f"{holder}.base_layer", holder} & modules
        if not leaves or not leaves <= set(_EXPERTS) or len(leaves) != len(present):
            self.unsupported(
                "these parameters of experts are not read",
                field="adapter_config.target_parameters",
                expected=f"{' or '.join(_EXPERTS)}, as many as {show(holder)} has pairs",
                found=", ".join(sorted(leaves)) or "none of this module",
                hint=MERGE,
            )
        return f"{holder}.{[each for each in _EXPERTS if each in leaves][inner]}"

    def _is_for(self, name: str, module: str) -> bool:
        parent, _, leaf = name.rpartition(".")
        return bool(leaf) and (not parent or module == parent or module.endswith(f".{parent}"))


class _PeftScales:
    """rank and scale of a module: the patterns' where one fits, else the adapter's."""

    def __init__(self, config: Json, fail: Fail, unsupported: Fail) -> None:
        self.fail = fail
        self.rank = count_of(config.get("r"), "r", fail)
        self.alpha = number_of(config.get("lora_alpha"), "lora_alpha", fail)
        self.rslora = bool(config.get("use_rslora"))
        self.patterns = {}
        self.doubts: dict[str, str] = {}
        for key in ("rank_pattern", "alpha_pattern"):
            table = config.get(key) or {}
            if not isinstance(table, dict):
                fail("wrong type", field=f"adapter_config.{key}", expected="an object", found=show(table))
            self.patterns[key] = all_matches(table, f"adapter_config.{key}", unsupported)

    def of(self, name: str) -> tuple[int, float]:
        rank, alpha = (self._first(key, name) for key in ("rank_pattern", "alpha_pattern"))
        r = self.rank if rank is None else count_of(rank, "rank_pattern", self.fail)
        a = self.alpha if alpha is None else number_of(alpha, "alpha_pattern", self.fail)
        return r, a / (math.sqrt(r) if self.rslora else r)

    def _first(self, key: str, name: str) -> object:
        found = self.patterns[key](name)
        if any(value != found[0][1] for _, value in found):
            patterns = " and ".join(show(pattern) for pattern, _ in found[:2])
            self.doubts.setdefault(key, f"{patterns} of {key} both match {show(name)}")
        return found[0][1] if found else None

    def notes(self) -> tuple[str, ...]:
        """A sentence for each table of which two patterns with other values match one module."""
        return tuple(
            f"{doubt}: the first in the file counts, as when PEFT loads it, but PEFT sorts patterns when it saves, so that "
            "it may have been trained with the other"
            for doubt in self.doubts.values()
        )
