"""Compress -> measure -> save: how a profile comes from a fine-tuned model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .base.load import load_model
from .base.loaded import Base
from .base.progress import Progress
from .data.examples import load_examples
from .data.loss import Loss
from .data.tokens import TokenRow, tokenize
from .delta.attach import Resident, attach, detach
from .delta.encode import encode
from .errors import InputError
from .format.spec import Profile
from .made import CreateReport, OnEvent, Stage, mean_of, measure_and_save, now, profile_info
from .profiles.store import ProfileStore
from .profiles.tuned import Tuned, open_tuned
from .train.events import Noted


def compress_profile(
    store: ProfileStore,
    base_name: str,
    base: Callable[[], Base],
    name: str,
    finetuned: str,
    *,
    scale: str = "rowcol",
    block: int = 128,
    planes: int = 1,
    valid: Any = None,
    replace: bool = False,
    on_event: OnEvent | None = None,
    on_pull: Progress | None = None,
) -> CreateReport:
    """Encode `finetuned` - base as profile `name` and save it, one tensor of each in memory at a time.

    `finetuned`: a model folder, a repository, or the folder of a LoRA adapter for this base.

    Losses are measured when `valid` is given: only then are the models loaded whole.
    """
    tell = on_event or (lambda event: None)
    began = time.monotonic()
    store.check_free(name, replace)
    held = load_examples(valid) if valid is not None and valid != "none" else []
    tuned = open_tuned(finetuned, base_name, on_pull)
    for note in tuned.notes:
        tell(Noted(note))
    tensors, layers = encode(
        tuned.names,
        tuned.base_of,
        tuned.tuned_of,
        targets=tuned.targets,
        growing=tuned.shapes,
        scale=scale,
        block=block if scale == "block" else None,
        planes=planes,
        progress=lambda done, total, tensor: tell(Stage("compressing", done, total)),
    )
    if not tensors:
        raise InputError(f"{finetuned} does not differ from {base_name}: there is nothing to keep", path=tuned.folder)
    base_loss = reference_loss = model = None
    held_rows: list[TokenRow] = []
    if held:
        at = base()
        model = at.model
        detach(model)
        held_rows = tokenize(held, at.tokenizer, at.context_length)
        base_loss = mean_of(model, held_rows, "held-out loss of the base", tell)
        reference_loss = _reference_loss(model, tuned, held_rows, tell)
    profile = Profile(
        info=profile_info(name, now(), "compress"),
        base=tuned.header(base_name, tensors),
        metrics={},
        target_count=tuned.target_count,
        model_count=tuned.model_count,
        tensors=tensors,
    )
    return measure_and_save(
        store, model, name, profile, held, held_rows, base_loss, reference_loss, replace, tell, began, [], layers
    )


def _reference_loss(model: Any, tuned: Tuned, rows: list[TokenRow], tell: OnEvent) -> Loss:
    """The fine-tune's loss: of its own checkpoint, or of the base with the adapter on it."""
    stage = "held-out loss of the fine-tune"
    if tuned.adapter is None:
        reference = load_model(tuned.folder)
        loss = mean_of(reference, rows, stage, tell)
        del reference
        mx.clear_cache()
        return loss
    attach(model, Resident.from_profile(tuned.adapter, consume=False))
    try:
        return mean_of(model, rows, stage, tell)
    finally:
        detach(model)
