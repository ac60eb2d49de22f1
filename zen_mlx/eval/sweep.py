"""The same fine-tune at many sizes: what the profile keeps of it at each, beside LoRA extractions of equal bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..manager import ZenPersonalizationManager
from .plot import RatePoint, plot_rate

RATES = (0.03, 0.05, 0.1, 0.15, 0.25, 0.33, 0.5, 0.75, 1.06, 1.5, 2.1)
PLANES = (1, 2)


@dataclass(frozen=True)
class SweepPoint:
    """kind: what was asked for; loss: nats per supervised token; retention: percent of the fine-tune's gain."""

    kind: str
    bits_per_weight: float
    file_bytes: int
    loss: float
    retention: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sweep_rates(
    manager: ZenPersonalizationManager,
    finetuned: str,
    valid: Any,
    text: Any,
    picture: Path,
    options: Mapping[str, Any],
    tell: Callable[[Any], None],
    rates: Sequence[float] = RATES,
) -> list[SweepPoint]:
    """Compress `finetuned` at every rate, and as 1 and 2 sign planes; measure each on `valid`, draw `picture`.

    Nothing is saved in the manager's home. `options` as `manager.compress_profile`, without a size of their own.
    """
    free = {key: value for key, value in options.items() if key not in ("bits_per_weight", "planes", "scale")}
    asked: list[tuple[str, dict[str, Any]]] = [("any kind", {"bits_per_weight": rate}) for rate in rates]
    asked += [("sign", {"planes": planes, "scale": options.get("scale")}) for planes in PLANES]
    points = []
    with tempfile.TemporaryDirectory(prefix="zen-sweep-") as folder:
        scratch = ZenPersonalizationManager(manager.model_name, home=Path(folder))
        for kind, own in asked:
            report = scratch.compress_profile(
                "sweep", finetuned, text=text, valid=valid, replace=True, on_event=tell, **free, **own
            )
            metrics = report.metrics
            points.append(
                SweepPoint(
                    kind, report.bits_per_weight, report.file_bytes, metrics["profile_loss"], metrics.get("retention")
                )
            )
    drawn = [
        RatePoint(point.kind, point.bits_per_weight, point.retention) for point in points if point.retention is not None
    ]
    plot_rate(drawn, picture)
    return points
