"""The end of a full-precision run: its latents -> signs, scales in closed form, and these distilled from the latents' model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import fsio
from ..codec.parts import DensePart
from ..data.soft import soften
from ..data.tokens import TokenRow
from ..delta.attach import Resident, attach, detach
from ..format.spec import DeltaTensor, Profile
from . import checkpoint
from .distill import distill, drawn, options_of
from .encode import encode_latents
from .events import Noted
from .moments import Moments
from .options import TrainOptions

LABELS = 0.5
"""Weight of the rows' own tokens beside what the full-precision model says about them."""


def refine(
    model: nn.Module,
    latents: Mapping[str, mx.array],
    planes: int,
    rows: list[TokenRow],
    options: TrainOptions,
    steps: int,
    folder: Path,
    on_event: Callable[[Any], None],
) -> dict[str, DeltaTensor]:
    """`latents` as `planes` sign planes: scales weighed by what the rows make of the layers, then `steps` steps
    towards base + latents. The run lies in `folder`, and goes on from what lies there."""
    run = options_of(steps, len(rows), options.seed)
    seen, held = drawn(rows, run)
    fsio.make_dir(folder)
    attach(model, Resident.from_profile(_as_profile(latents)))
    try:
        both = soften(model, [*seen, *held], folder, LABELS)
    finally:
        detach(model)
    moments = Moments(model, rows)
    ordered = {name: latents[name] for name in moments.order if name in latents}
    tensors = encode_latents(ordered, options.config, planes, moments.of)
    state = checkpoint.load(folder, lambda text: on_event(Noted(text)))
    seen, held = both[: len(seen)], both[len(seen) :]
    return distill(model, tensors, seen, held, run, folder=folder, state=state, on_event=on_event)


def _as_profile(latents: Mapping[str, mx.array]) -> Profile:
    tensors = {name: DeltaTensor(tuple(each.shape), (DensePart(np.array(each)),)) for name, each in latents.items()}
    return Profile(
        info={"name": "full precision"},
        base={"verified": False},
        metrics={},
        target_count=1,
        model_count=1,
        tensors=tensors,
    )
