"""Train or compress -> measure -> save: how a profile comes to be. The manager, the command line and tests all come here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlx.core as mx

from . import fsio
from .base.load import load_model
from .base.loaded import Base
from .base.progress import Progress
from .data.examples import (
    Example,
    ImportOptions,
    ImportReport,
    data_digest,
    import_examples,
    load_examples,
    split_held_out,
)
from .data.loss import Loss, mean_loss
from .data.tokens import TokenRow, crop, tokenize
from .delta.attach import Resident, attach, detach, model_count, target_count
from .delta.encode import LayerStats, encode
from .errors import DataError, InputError
from .format.read import read_header
from .format.spec import Profile
from .memory import peak_memory_bytes
from .names import run_dir
from .profiles.store import ProfileStore
from .profiles.tuned import Tuned, open_tuned
from .train import checkpoint
from .train.trainer import StepReport, TrainOptions, road_of, train


@dataclass(frozen=True)
class Prepared:
    """What a run will do. cut: rows longer than max_length; tokens: supervised ones in one pass over the rows."""

    rows: int
    held_out: int
    cut: int
    steps: int
    tokens: int
    resumed_from: int


@dataclass(frozen=True)
class Stage:
    """Progress of a stage that is not a training step."""

    name: str
    done: int
    total: int


Event = ImportReport | Prepared | Stage | StepReport
OnEvent = Callable[[Any], None]


@dataclass(frozen=True)
class CreateReport:
    """What was made. Sizes in bytes, losses in nats per supervised token."""

    profile: str
    path: Path
    file_bytes: int
    parameter_count: int
    bits_per_weight: float
    ratio_fp32: float
    ratio_fp16: float
    seconds: float
    peak_memory_bytes: int
    metrics: dict[str, Any]
    losses: list[float] = field(default_factory=list)
    layers: list[LayerStats] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The document of `zen train --json` and `zen compress --json`."""
        out = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("losses", "layers")}
        out["path"] = str(self.path)
        if self.layers:
            out["layers"] = [asdict(layer) for layer in self.layers]
        return out


def train_profile(
    store: ProfileStore,
    base: Callable[[], Base],
    name: str,
    data: Any,
    options: TrainOptions,
    *,
    valid: Any = None,
    imports: ImportOptions | None = None,
    resume: bool = False,
    replace: bool = False,
    on_event: OnEvent | None = None,
) -> CreateReport:
    """Train profile `name` from `data` and save it; `base` is called once the data is known to be usable."""
    tell = on_event or (lambda event: None)
    began = time.monotonic()
    store.check_free(name, replace or resume)
    folder = run_dir(store.home, name)
    with fsio.lock(folder.with_name(f".{name}.lock"), f"profile {name!r} is being trained by another process"):
        unfinished = checkpoint.exists(folder)
        if resume and not unfinished:
            raise InputError(f"there is no unfinished run of {name!r} to resume", path=folder)
        if unfinished and not resume and not replace:
            raise InputError(
                f"an unfinished run of {name!r} lies here",
                path=folder,
                hint="--resume goes on; --replace starts again",
            )
        examples, imported = import_examples(data, imports)
        tell(imported)
        examples, held = split(examples, valid, imports)
        at = base()
        detach(at.model)
        rows, cut = crop(tokenize(examples, at.tokenizer, options.max_length), options.max_length)
        if not rows:
            raise DataError("every row is longer than max_length", field="max_length", found=options.max_length)
        held_rows = tokenize(held, at.tokenizer, at.context_length)
        wanted: dict[str, Any] = {
            "data": data_digest(examples),
            "held_out": data_digest(held),
            "weights": at.info.weights,
            "tokenizer": at.info.tokenizer,
            "options": options.facts(),
        }
        facts = checkpoint.check_same(folder, wanted) if resume else wanted
        steps = options.step_count(len(rows))
        done = checkpoint.load_step(folder) if resume else 0
        tell(Prepared(len(rows), len(held), cut, steps, sum(row.targets for row in rows), done))
        if not resume:
            fsio.remove(folder)
            loss = _held_out(at.model, held_rows, "held-out loss of the base", tell)
            facts = {**wanted, "created": now(), "base_loss": loss.nats if loss else None}
        result = train(at.model, rows, options, folder=folder, facts=facts, on_step=tell)
        profile = Profile(
            info=_info(name, facts["created"], options.method),
            base=at.info.header(),
            metrics={"data_sha256": facts["data"], "seed": options.seed, "steps": steps, "train_rows": len(examples)},
            target_count=target_count(at.model),
            model_count=model_count(at.model),
            tensors=road_of(options, at.model).encode(result.latents),
        )
        report = _measure_and_save(
            store,
            at.model,
            name,
            profile,
            held,
            held_rows,
            facts["base_loss"],
            None,
            replace or resume,
            tell,
            began,
            result.losses,
        )
        fsio.remove(folder)
    return report


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
        base_loss = mean_of(model, held_rows, "held-out loss of the base", tell).nats
        reference_loss = _reference_loss(model, tuned, held_rows, tell)
    profile = Profile(
        info=_info(name, now(), "compress"),
        base=tuned.header(base_name, tensors),
        metrics={},
        target_count=tuned.target_count,
        model_count=tuned.model_count,
        tensors=tensors,
    )
    return _measure_and_save(
        store, model, name, profile, held, held_rows, base_loss, reference_loss, replace, tell, began, [], layers
    )


def split(
    examples: list[Example], valid: Any, imports: ImportOptions | None = None
) -> tuple[list[Example], list[Example]]:
    """(train, held out) by the rule of `--valid`: DATA, "none", or None for the automatic split."""
    if valid is None:
        return split_held_out(examples)
    if isinstance(valid, str) and valid == "none":
        return examples, []
    return examples, import_examples(valid, imports)[0]


def mean_of(model: Any, rows: list[TokenRow], stage: str, tell: OnEvent) -> Loss:
    """Mean loss over `rows`, told as `Stage` events."""
    return mean_loss(model, rows, lambda done, total: tell(Stage(stage, done, total)))


def now() -> str:
    """The time now as the format writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def retention(base: float, profile: float, reference: float) -> float | None:
    """100 * (base - profile) / (base - reference): percent of the reference's gain that the profile keeps."""
    return 100 * (base - profile) / (base - reference) if base != reference else None


def _reference_loss(model: Any, tuned: Tuned, rows: list[TokenRow], tell: OnEvent) -> float:
    """The fine-tune's loss: of its own checkpoint, or of the base with the adapter on it."""
    stage = "held-out loss of the fine-tune"
    if tuned.adapter is None:
        reference = load_model(tuned.folder)
        loss = mean_of(reference, rows, stage, tell).nats
        del reference
        mx.clear_cache()
        return loss
    attach(model, Resident.from_profile(tuned.adapter, consume=False))
    try:
        return mean_of(model, rows, stage, tell).nats
    finally:
        detach(model)


def _held_out(model: Any, rows: list[TokenRow], stage: str, tell: OnEvent) -> Loss | None:
    return mean_of(model, rows, stage, tell) if rows else None


def _info(name: str, created: str, method: str) -> dict[str, Any]:
    tool = f"zen-mlx {installed_version('zen-mlx')}"
    return {"name": name, "created": created, "tool": tool, "method": method, "license": "not stated"}


def _measure_and_save(
    store: ProfileStore,
    model: Any,
    name: str,
    profile: Profile,
    held: Iterable[Example],
    held_rows: list[TokenRow],
    base_loss: float | None,
    reference_loss: float | None,
    replace: bool,
    tell: OnEvent,
    began: float,
    losses: list[float],
    layers: list[LayerStats] | None = None,
) -> CreateReport:
    if held_rows:
        attach(model, Resident.from_profile(profile, consume=False))
        try:
            loss = mean_of(model, held_rows, "held-out loss of the profile", tell)
        finally:
            detach(model)
        profile.metrics |= {
            "base_loss": base_loss,
            "profile_loss": loss.nats,
            "held_out_rows": len(list(held)),
            "held_out_tokens": loss.tokens,
            "held_out_sha256": data_digest(held),
        }
        if base_loss is not None and reference_loss is not None:
            profile.metrics |= {
                "reference_loss": reference_loss,
                "retention": retention(base_loss, loss.nats, reference_loss),
            }
    path = store.save(name, profile, replace)
    header = read_header(path)
    metrics = {"base_loss": None, "profile_loss": None, "reference_loss": None, **header.metrics}
    return CreateReport(
        profile=name,
        path=path,
        file_bytes=header.file_bytes or 0,
        parameter_count=header.target_count,
        bits_per_weight=header.bits_per_weight or 0.0,
        ratio_fp32=header.ratio_fp32 or 0.0,
        ratio_fp16=header.ratio_fp16 or 0.0,
        seconds=round(time.monotonic() - began, 3),
        peak_memory_bytes=peak_memory_bytes(),
        metrics=metrics,
        losses=losses,
        layers=layers or [],
    )
