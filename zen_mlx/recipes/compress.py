"""Compress -> measure -> save: how a profile comes from a fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter.attach import Resident, attach, detach
from ..base.load import load_tokenizer
from ..base.loaded import base_info
from ..base.pull import pull
from ..config import CompressOptions
from ..data.examples import Example, data_digest, import_examples, load_examples
from ..data.tokens import crop, tokenize
from ..encode.layer_stats import LayerStats
from ..errors import InputError
from ..events import Noted, Stage, stage
from ..format.spec import IDENTITY, DeltaTensor
from ..fsio import Json
from ..train import checkpoint
from ..train.distill import distill, drawn, options_of
from ..train.self_generated import self_generated
from ..train.soft_labels import soften
from .closed_form import Compression
from .common import CreateReport, HeldOut, RunContext, claimed, mean_of, measure_and_save
from .finetune import open_finetune

BABBLE_TOKENS = 96


def compress_profile(
    run: RunContext, finetuned: str, options: CompressOptions, *, text: Any = None, valid: Any = None
) -> CreateReport:
    """Encode `finetuned` - base as a profile and save it, one tensor of each in memory at a time.

    `finetuned`: a model folder, a repository, or the folder of a LoRA adapter for this base. `text`: data as for
    training, scrubbed; layers are weighed by what it makes of them, and what is stored is distilled on it. Losses are
    measured when `valid` is given. Only text and `valid` need models loaded whole, one at a time.
    SIGINT saves the distillation and raises `train.checkpoint.Interrupted`; `run.resume` goes on from there.
    """
    if text is None:
        if run.resume:
            raise InputError("only a distillation can be resumed", field="distill", expected="the same data as before")
        run.store.check_free(run.name, run.replace)
        held = _held(valid)
        make = _opened(run, finetuned, options)
        tensors, layers = make.closed_form()
        return replace(_finish(run, make, tensors, held), layers=layers)
    with claimed(run):
        held = _held(valid)
        examples, imported = import_examples(text)
        run.on_event(imported)
        make = _opened(run, finetuned, options)
        if not run.resume:
            checkpoint.remove(run.folder)
        tensors, layers = _distilled(make, examples, run.folder)
        report = replace(_finish(run, make, tensors, held), layers=layers)
        checkpoint.remove(run.folder)
        return report


def _opened(run: RunContext, finetuned: str, options: CompressOptions) -> Compression:
    tuned = open_finetune(finetuned, run.base_name, run.on_pull)
    for note in tuned.notes:
        run.on_event(Noted(note))
    return Compression(tuned, run.base, options, run.on_event)


def _held(valid: Any) -> list[Example]:
    return load_examples(valid) if valid is not None and valid != "none" else []


def _distilled(
    make: Compression, examples: list[Example], folder: Path
) -> tuple[dict[str, DeltaTensor], list[LayerStats]]:
    """The closed form, and then scales and factors trained on what the fine-tune says about `examples`."""
    options, tokenizer = make.options, load_tokenizer(pull(make.tuned.base_name))
    wanted: Json = {
        "data": data_digest(examples),
        "weights": base_info(make.tuned.base_name).weights,
        "finetuned": str(make.tuned.folder),
        "options": asdict(options),
    }
    identity: Json = {"identity": {key: make.tuned.header({})[key] for key in IDENTITY}}
    if checkpoint.exists(folder):
        # A run of an older version goes on without them: they take bytes of the file that its parts were shared out for.
        make.with_identity = "identity" in checkpoint.facts(folder)
        make.created = checkpoint.check_same(folder, wanted | (identity if make.with_identity else {}))["created"]
    else:
        checkpoint.begin(folder, {**wanted, **identity, "created": make.created})
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
    run: RunContext, make: Compression, tensors: Mapping[str, DeltaTensor], examples: list[Example]
) -> CreateReport:
    """Measure and save."""
    model, held = None, HeldOut(examples, [])
    if examples:
        at = run.base()
        model = at.model
        detach(model)
        rows = tokenize(examples, at.tokenizer, at.context_length)
        base = mean_of(model, rows, "held-out loss of the base", run.on_event)
        with make.teacher() as teacher:
            reference = mean_of(teacher, rows, "held-out loss of the fine-tune", run.on_event)
        held = HeldOut(examples, rows, base, reference)
    return measure_and_save(run, model, make.profile(run.name, tensors), held)
