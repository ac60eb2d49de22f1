"""Section 6.2 in numbers: error and retention of one fine-tune against the ratio, beside the paper's curves.

The paper says: error O(1/sqrt(R)), degradation logarithmic in R. Its constants are taken from where it gives numbers:
nothing lost at R = 1, 7 % at 107 (4.1 and 4.2); the error from our own largest file on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..encode.layer_stats import LayerStats
from ..eval.plot import RatePoint, plot_rate
from ..eval.report import evaluate
from ..events import Progress
from ..format.read import read_header
from ..fsio import Json
from ..manager import ZenPersonalizationManager
from ..paths import examples_dir
from .paper_quality import stage_events

Encode = Callable[[ZenPersonalizationManager, str, str], list[LayerStats]]
"""Compress the fine-tune (last) into the manager's profile of that name."""

_PAPER_RATIO, _PAPER_LOST = 107.0, 7.0
_QUICK_ROWS, _QUICK_CODECS = 4, 2


def compressed(**options: Any) -> Encode:
    """What `zen compress` does with these options."""

    def encode(manager: ZenPersonalizationManager, name: str, finetune: str) -> list[LayerStats]:
        return list(manager.compress_profile(name, finetune, **options).layers)

    return encode


CODECS: Mapping[str, Encode] = {
    "sign, row x col": compressed(scale="rowcol"),
    "any kind, 0.33": compressed(bits_per_weight=0.33),
    "sign, row x col, 2 planes": compressed(scale="rowcol", planes=2),
    "sign, tensor": compressed(scale="tensor"),
    "sign, row": compressed(scale="row"),
    "sign, block of 128": compressed(scale="block", block=128),
    "any kind, 2": compressed(bits_per_weight=2),
    "any kind, 1.06": compressed(bits_per_weight=1.06),
    "any kind, 0.15": compressed(bits_per_weight=0.15),
    "any kind, 0.05": compressed(bits_per_weight=0.05),
    "LoRA extraction, r = 16": compressed(groups=((16, 16),)),
}
"""Codec -> how the fine-tune is encoded. A further row of the table is a further line here."""


def measure_rate(
    manager: ZenPersonalizationManager, finetune: str | None, data: Path | None, quick: bool, report: Progress
) -> Json | None:
    """ "finetune", "data", "base_loss", "reference_loss" and "rows", best ratio last: "codec", "file_bytes",
    "bits_per_weight", "ratio_fp32", "error" (||D' - D|| / ||D|| over all layers), "loss", "retention", and the paper's
    "paper_error" and "paper_retention". `quick`: the first two codecs. None without a fine-tune."""
    if finetune is None:
        return None
    chosen = dict(list(CODECS.items())[:_QUICK_CODECS] if quick else CODECS.items())
    names, errors = {}, {}
    for index, (codec, encode) in enumerate(chosen.items()):
        report("compressing", index, len(chosen))
        names[codec] = f"rate-{index}"
        errors[codec] = total_error(encode(manager, names[codec], finetune))
    report("compressing", len(chosen), len(chosen))

    source = data or examples_dir() / "cynic.valid.jsonl"
    limit = _QUICK_ROWS if quick else None
    told = stage_events(report, "loss of ")
    found = evaluate(manager, source, list(names.values()), reference=finetune, limit=limit, on_event=told)
    by_name = {each["profile"]: each for each in found["results"]}
    rows = []
    for codec, name in names.items():
        header = read_header(manager.store.path(name))
        rows.append(
            {
                "codec": codec,
                "file_bytes": header.file_bytes,
                "bits_per_weight": header.bits_per_weight,
                "ratio_fp32": header.ratio_fp32,
                "error": errors[codec],
                "loss": by_name[name]["loss"],
                "retention": by_name[name]["retention"],
            }
        )
    return {
        "finetune": Path(finetune).name,
        "data": {**found["data"], "path": source.name},
        "base_loss": by_name[None]["loss"],
        "reference_loss": found["reference"]["loss"],
        "rows": with_curves(rows),
    }


def total_error(layers: Iterable[LayerStats]) -> float:
    """||D' - D|| / ||D|| over all of `layers` together."""
    energy = lost = 0.0
    for layer in layers:
        own = layer.delta_rms**2 * math.prod(layer.shape)
        energy += own
        lost += own * layer.relative_error**2
    return math.sqrt(lost / energy) if energy else 0.0


def with_curves(rows: list[Json]) -> list[Json]:
    """`rows` by ratio, each with what the paper's two curves say at its ratio."""
    ordered = sorted(rows, key=lambda row: row["ratio_fp32"])
    first = ordered[0]
    return [
        {
            **row,
            "paper_error": first["error"] * math.sqrt(first["ratio_fp32"] / row["ratio_fp32"]),
            "paper_retention": 100 - _PAPER_LOST * math.log(row["ratio_fp32"]) / math.log(_PAPER_RATIO),
        }
        for row in ordered
    ]


def plot(table: Json, file: Path) -> None:
    """Retention against bits per weight, with the paper's curve; nothing without a fine-tune."""
    rate = table["rate"]
    if rate is None:
        return
    points = []
    for row in rate["rows"]:
        family = row["codec"].split(",")[0]
        points.append(RatePoint(family, row["bits_per_weight"], row["retention"], f"{row['ratio_fp32']:.0f}x"))
        points.append(RatePoint("whitepaper, 6.2", row["bits_per_weight"], row["paper_retention"]))
    plot_rate(points, file, title=f"{rate['finetune']} on {rate['data']['path']}")
