"""Table 4.1 of the whitepaper: whole files against whole models, from the dimensions of real models.

Nothing of a model's size is made: mlx-lm's own classes say the shapes, the format's own writer the bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.resources import files
from typing import NamedTuple

import mlx.nn as nn
from mlx_lm import utils

from ..adapter.targets import model_count, target_count, targets
from ..encode.byte_budget import BITS, ranks
from ..format.spec import Facts
from ..format.write import file_bytes
from ..fsio import Json

Shapes = Mapping[str, tuple[int, ...]]
Layout = list[Json]

LORA_RANK = 16
_INFO = {
    "name": "paper",
    "created": "2026-01-01T00:00:00Z",
    "tool": "zen-mlx 0.1.0",
    "method": "sign",
    "license": "not stated",
}
_METRICS = dict.fromkeys(("base_loss", "profile_loss", "reference_loss", "retention"), 0.1234567890123456)


class Dimensions(NamedTuple):
    """A model's config.json, where it comes from, and what the whitepaper says of a model of this size."""

    name: str
    source: str
    config: Json
    paper: Json | None


def dimensions() -> list[Dimensions]:
    """The models of the table, smallest first."""
    folder = files(__package__) / "configs"
    found = [
        Dimensions(**json.loads(file.read_text("utf-8"))) for file in folder.iterdir() if file.name[-5:] == ".json"
    ]
    return sorted(found, key=lambda each: model_count(skeleton(each.config)))


def skeleton(config: Json) -> nn.Module:
    """The mlx-lm module of `config`, none of its arrays computed."""
    model_class, arguments = utils._get_classes(dict(config))
    model: nn.Module = model_class(arguments.from_dict(dict(config)))
    return model


def sign_layout(scale: str, planes: int = 1, block: int | None = None) -> Layout:
    """The layout of `planes` sign parts with f16 scales."""
    part = {"kind": "sign", "scale": scale, "dtype": "f16"} | ({} if block is None else {"block": block})
    return [part] * planes


def _signs(scale: str, planes: int, block: int | None, shapes: Shapes) -> dict[str, Layout]:
    return dict.fromkeys(shapes, sign_layout(scale, planes, block))


def _factors(bits_per_weight: float, shapes: Shapes) -> dict[str, Layout]:
    part = {"kind": "factor", "dtype": "f16", "u": False, "v": False}
    found = ranks(shapes, bits_per_weight)
    return {name: [{**part, "groups": [[BITS, rank]]}] for name, rank in found.items()}


CODECS: Mapping[str, Callable[[Shapes], dict[str, Layout]]] = {
    "sign, tensor": partial(_signs, "tensor", 1, None),
    "sign, row": partial(_signs, "row", 1, None),
    "sign, row x col": partial(_signs, "rowcol", 1, None),
    "sign, block of 128": partial(_signs, "block", 1, 128),
    "sign, row x col, 2 planes": partial(_signs, "rowcol", 2, None),
    "factor, 0.33": partial(_factors, 0.33),
    "factor, 0.15": partial(_factors, 0.15),
    "factor, 0.05": partial(_factors, 0.05),
}
"""Codec -> the layout of every target. A further row of the table is a further line here."""


def profile_bytes(facts: Facts, shapes: Shapes, layouts: Mapping[str, Layout]) -> int:
    """The size of the `.bitdelta` file, to the byte where `facts` are the file's own."""
    return file_bytes(facts, {name: (shapes[name], layout, None) for name, layout in layouts.items()})


def lora_bytes(shapes: Shapes, rank: int = LORA_RANK, item_bytes: int = 2) -> int:
    """The size of mlx-lm's adapters.safetensors for a LoRA of `rank` on all of `shapes`, experts each their own."""
    entries: Json = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, (*lead, n, k) in sorted(shapes.items()):
        pairs = (
            (("lora_a", (k, rank)), ("lora_b", (rank, n)))
            if not lead
            else (("lora_a", (rank, k)), ("lora_b", (n, rank)))
        )
        for side, dims in pairs:
            shape = [*lead, *dims]
            begin, end = end, end + item_bytes * math.prod(shape)
            entries[f"{name.removesuffix('weight')}{side}"] = {
                "dtype": "F16",
                "shape": shape,
                "data_offsets": [begin, end],
            }
    return 8 + len(json.dumps(entries, separators=(",", ":"))) + end


def facts_of(name: str, config: Json, model: nn.Module) -> Facts:
    """What a header of the usual length would say of a profile of that model."""
    base = {
        "model": name,
        "architecture": config["model_type"],
        "weights": "0" * 64,
        "tokenizer": "0" * 64,
        "quantization": None,
        "verified": True,
    }
    return Facts(
        info=dict(_INFO),
        base=base,
        metrics=dict(_METRICS),
        target_count=target_count(model),
        model_count=model_count(model),
    )


def measure_sizes() -> list[Json]:
    """Rows of "model", "codec", "file_bytes", "bits_per_weight", "ratio_fp32", "ratio_fp16" and "lora_rank_16": how many
    times the f16 LoRA's file; the codec "LoRA, r = 16, f16" is that file itself. "paper": the whitepaper's row, or None.
    """
    return [row for each in dimensions() for row in _rows(each)]


def _rows(each: Dimensions) -> Iterator[Json]:
    model = skeleton(each.config)
    shapes, facts = targets(model), facts_of(each.name, each.config, model)
    lora = lora_bytes(shapes)
    sizes = {codec: profile_bytes(facts, shapes, layouts(shapes)) for codec, layouts in CODECS.items()}
    for codec, size in {**sizes, f"LoRA, r = {LORA_RANK}, f16": lora}.items():
        facts.file_bytes = size
        yield {
            "model": each.name,
            "source": each.source,
            "model_count": facts.model_count,
            "target_count": facts.target_count,
            "codec": codec,
            "file_bytes": size,
            "bits_per_weight": facts.bits_per_weight,
            "ratio_fp32": facts.ratio_fp32,
            "ratio_fp16": facts.ratio_fp16,
            "over_lora": size / lora,
            "paper": each.paper,
        }
