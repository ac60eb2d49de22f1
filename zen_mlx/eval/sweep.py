"""Rate sweep: the share of a fine-tune that a profile keeps at many sizes, beside LoRA extractions of the same change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..adapter.attach import Resident, attach, detach
from ..config import CompressOptions
from ..data.examples import import_examples, load_examples
from ..data.tokens import crop, tokenize
from ..errors import ConfigError
from ..events import Noted, OnEvent
from ..fsio import Json
from ..manager import ZenPersonalizationManager
from ..recipes.closed_form import Compression
from ..recipes.common import mean_of, retention
from ..recipes.finetune import open_finetune
from .plot import RatePoint, plot_rate

RATES = (0.03, 0.05, 0.1, 0.15, 0.25, 0.33, 0.5, 0.75, 1.06, 1.5, 2.1)
ONE_PLANE = 1.03
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class SweepPoint:
    """kind: what was asked for; loss: nats per supervised token; retention: percent of the fine-tune's gain."""

    kind: str
    bits_per_weight: float
    file_bytes: int
    loss: float
    retention: float | None

    def to_dict(self) -> Json:
        return asdict(self)


def asked(options: CompressOptions, rates: Sequence[float] = RATES) -> list[tuple[str, CompressOptions]]:
    """(kind, options) of every point, most bits first: any kind at every rate, beside it factors alone and sign planes alone
    where there is room for a plane, and LoRAs of 16 and 4 bits at most at 2.1."""
    free = replace(options, bits_per_weight=None, planes=None, scale=None)
    rates = sorted(rates, reverse=True)
    points = [("any kind", replace(free, bits_per_weight=rate)) for rate in rates]
    alone = {"factor": replace(free, only="factor"), "sign": replace(free, only="sign", scale=options.scale)}
    for kind, own in alone.items():
        points += [(f"{kind} alone", replace(own, bits_per_weight=rate)) for rate in rates if rate > ONE_PLANE]
    points += [("LoRA, 16 bits", replace(free, groups=((16, rank),))) for rank in RANKS[:-2]]
    points += [("LoRA, 4 bits", replace(free, groups=((4, rank),))) for rank in RANKS[1:]]
    return points


def sweep_rates(
    manager: ZenPersonalizationManager,
    finetuned: str,
    valid: Any,
    text: Any,
    picture: str | Path,
    options: CompressOptions,
    on_event: OnEvent,
    rates: Sequence[float] = RATES,
) -> list[SweepPoint]:
    """Compress `finetuned` in every way of `asked`, measure each on `valid`, draw `picture`; nothing is saved.

    text: data that the layers are weighed by; nothing is distilled. A rate that pays for nothing is left out.
    """
    at = manager.base
    held = tokenize(load_examples(valid), at.tokenizer, at.context_length)
    rows = None
    if text is not None:
        examples, imported = import_examples(text)
        on_event(imported)
        rows, _ = crop(tokenize(examples, at.tokenizer, options.max_length), options.max_length)
    detach(at.model)
    tuned = open_finetune(finetuned, manager.model_name)
    for note in tuned.notes:
        on_event(Noted(note))
    base = mean_of(at.model, held, "held-out loss of the base", on_event).nats
    reference = None
    weighed: dict[tuple[str, int | None], Any] = {}  # by kind of scale: once for all rates, the highest comes first
    points = []
    for kind, own in asked(options, rates):
        make = Compression(tuned, lambda: at, own, on_event)
        make.weighed = weighed.get(own.scale_and_block)
        if reference is None:
            with make.teacher() as teacher:
                reference = mean_of(teacher, held, "held-out loss of the fine-tune", on_event).nats
        try:
            tensors, _ = make.closed_form(rows)
        except ConfigError as error:
            if error.field != "bits_per_weight":
                raise
            continue
        weighed[own.scale_and_block] = make.weighed or weighed.get(own.scale_and_block)
        size = make.file_bytes(tensors)
        attach(at.model, Resident.from_profile(make.profile("sweep", tensors)))
        try:
            loss = mean_of(at.model, held, f"{kind}, {size / 1e6:.2f} MB", on_event).nats
        finally:
            detach(at.model)
        bits = 8 * size / make.tuned.target_count
        points.append(SweepPoint(kind, bits, size, loss, retention(base, loss, reference)))
    kinds = [point.kind for point in points]
    points.sort(key=lambda point: (kinds.index(point.kind), point.bits_per_weight))
    drawn = [RatePoint(p.kind, p.bits_per_weight, p.retention) for p in points if p.retention is not None]
    if drawn:
        plot_rate(drawn, picture)
    return points
