"""Compress -> measure -> save: how a profile comes from a fine-tuned model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter.attach import Resident, attach, detach
from ..base.load import load_tokenizer
from ..base.loaded import Base, base_info
from ..base.pull import pull
from ..config import CompressOptions
from ..data.examples import Example, data_digest, import_examples, load_examples
from ..data.loss import Loss
from ..data.tokens import TokenRow, crop, tokenize
from ..encode.layer_stats import LayerStats
from ..errors import InputError
from ..events import Noted, OnEvent, Progress, Stage, ignore, stage
from ..format.spec import DeltaTensor
from ..profiles.store import ProfileStore
from ..train import checkpoint
from ..train.distill import distill, drawn, options_of
from ..train.self_generated import self_generated
from ..train.soft_labels import soften
from .closed_form import Compression
from .common import CreateReport, claimed, mean_of, measure_and_save

__all__ = ["CompressOptions", "compress_profile"]

BABBLE_TOKENS = 96


def compress_profile(
    store: ProfileStore,
    base_name: str,
    base: Callable[[], Base],
    name: str,
    finetuned: str,
    options: CompressOptions | None = None,
    *,
    text: Any = None,
    valid: Any = None,
    resume: bool = False,
    replace: bool = False,
    on_event: OnEvent | None = None,
    on_pull: Progress | None = None,
) -> CreateReport:
    """Encode `finetuned` - base as profile `name` and save it, one tensor of each in memory at a time.

    `finetuned`: a model folder, a repository, or the folder of a LoRA adapter for this base. `text`: data as for
    training, scrubbed; layers are weighed by what it makes of them, and what is stored is distilled on it. Losses are
    measured when `valid` is given. Only text and `valid` need models loaded whole, one at a time.
    SIGINT saves the distillation and raises `train.trainer.Interrupted`; `resume` goes on from there.
    """
    on_event = on_event or ignore
    began = time.monotonic()
    options = options or CompressOptions()
    if text is None:
        if resume:
            raise InputError("only a distillation can be resumed", field="distill", expected="the same data as before")
        store.check_free(name, replace)
        held = _held(valid)
        make = Compression(base_name, base, finetuned, options, on_event, on_pull)
        tensors, layers = make.closed_form()
        return _finish(store, make, name, tensors, layers, held, replace, began)
    with claimed(store, name, resume, replace) as folder:
        held = _held(valid)
        examples, imported = import_examples(text)
        on_event(imported)
        make = Compression(base_name, base, finetuned, options, on_event, on_pull)
        if not resume:
            checkpoint.remove(folder)
        tensors, layers = _distilled(make, examples, folder)
        report = _finish(store, make, name, tensors, layers, held, replace or resume, began)
        checkpoint.remove(folder)
        return report


def _held(valid: Any) -> list[Example]:
    return load_examples(valid) if valid is not None and valid != "none" else []


def _distilled(
    make: Compression, examples: list[Example], folder: Path
) -> tuple[dict[str, DeltaTensor], list[LayerStats]]:
    """The closed form, and then scales and factors trained on what the fine-tune says about `examples`."""
    options, tokenizer = make.options, load_tokenizer(pull(make.base_name))
    wanted = {
        "data": data_digest(examples),
        "weights": base_info(make.base_name).weights,
        "finetuned": str(make.tuned.folder),
        "options": asdict(options),
    }
    if checkpoint.exists(folder):
        make.created = checkpoint.check_same(folder, wanted)["created"]
    else:
        checkpoint.begin(folder, {**wanted, "created": make.created})
    rows, _ = crop(tokenize(examples, tokenizer, options.max_length), options.max_length)
    with make.teacher() as teacher:
        if options.babble:
            make.on_event(Stage("the fine-tune writes texts of its own", 0, 1))
            rows += self_generated(teacher, tokenizer, options.babble, BABBLE_TOKENS, options.seed)
        order = np.random.default_rng(options.seed).permutation(len(rows))
        rows = [rows[index] for index in order]
        run = options_of(options.steps, len(rows), options.seed)
        seen, held = drawn(rows, run)
        progress = stage(make.on_event, "what the fine-tune says")
        both = soften(teacher, [*seen, *held], folder, options.labels, options.mse, progress)
    seen, held = both[: len(seen)], both[len(seen) :]
    model = make.base().model
    detach(model)
    tensors, stats = make.closed_form(rows)
    fixed = {name: tensor for name, tensor in tensors.items() if name not in make.tuned.targets}
    if fixed:
        attach(model, Resident.from_profile(make.profile("unfinished", fixed), consume=False))
    try:
        state = checkpoint.load(folder, lambda text: make.on_event(Noted(text)))
        trained = distill(model, tensors, seen, held, run, folder=folder, state=state, on_event=make.on_event)
    finally:
        detach(model)
    return trained, stats


def _finish(
    store: ProfileStore,
    make: Compression,
    name: str,
    tensors: Mapping[str, DeltaTensor],
    layers: list[LayerStats],
    held: list[Example],
    replace: bool,
    began: float,
) -> CreateReport:
    """Measure and save."""
    base_loss = reference_loss = model = None
    held_rows: list[TokenRow] = []
    if held:
        at = make.base()
        model = at.model
        detach(model)
        held_rows = tokenize(held, at.tokenizer, at.context_length)
        base_loss = mean_of(model, held_rows, "held-out loss of the base", make.on_event)
        reference_loss = _reference_loss(make, held_rows)
    profile = make.profile(name, tensors)
    return measure_and_save(
        store,
        model,
        name,
        profile,
        held,
        held_rows,
        base_loss,
        reference_loss,
        replace,
        make.on_event,
        began,
        [],
        layers,
    )


def _reference_loss(make: Compression, rows: list[TokenRow]) -> Loss:
    with make.teacher() as teacher:
        return mean_of(teacher, rows, "held-out loss of the fine-tune", make.on_event)
