"""The steps that all recipes share: claim the name, measure the profile, save it, report."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import fsio
from ..adapter.attach import Resident, attach, detach
from ..base.loaded import Base
from ..data.examples import Example, data_digest
from ..data.loss import Loss, mean_loss
from ..data.tokens import TokenRow
from ..encode.layer_stats import LayerStats
from ..errors import InputError
from ..events import OnEvent, Progress, ignore, stage
from ..format.read import read_header
from ..format.spec import Profile
from ..memory import peak_memory_bytes
from ..paths import report_path, run_dir
from ..profiles.store import ProfileStore
from ..train import checkpoint
from .samples import BeforeAfter


@dataclass(frozen=True)
class RunContext:
    """What a recipe that makes profile `name` has throughout.

    base: `base_name`, loaded at the first call. resume: an unfinished run of that name goes on; replace: it, and the
    profile of that name, may go. began: by `time.monotonic`.
    """

    store: ProfileStore
    base_name: str
    base: Callable[[], Base]
    name: str
    resume: bool = False
    replace: bool = False
    on_event: OnEvent = ignore
    on_note: Callable[[str], None] = lambda text: None  # gets what its user should know, a sentence each
    on_pull: Progress | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where the run keeps what it can go on from."""
        return run_dir(self.store.home, self.name)


@dataclass(frozen=True)
class HeldOut:
    """What a profile is measured on, and how base and reference do there, where that is known."""

    examples: list[Example]
    rows: list[TokenRow]
    base: Loss | None = None
    reference: Loss | None = None


@contextlib.contextmanager
def claimed(run: RunContext) -> Iterator[None]:
    """Nobody else makes this profile within the block.

    InputError when its name or its run is in the way. A KeyboardInterrupt that finds a run there says how it goes on.
    """
    name, folder, resume = run.name, run.folder, run.resume
    run.store.check_free(name, run.replace or resume)
    with fsio.lock(folder.with_name(f".{name}.lock"), f"profile {name!r} is being made by another process"):
        unfinished = checkpoint.exists(folder)
        if resume and not unfinished:
            raise InputError(f"there is no unfinished run of {name!r} to resume", path=folder)
        if unfinished and not resume and not run.replace:
            hint = "--resume continues it; --replace starts again"
            raise InputError(f"an unfinished run of {name!r} exists", path=folder, hint=hint)
        try:
            yield
        except KeyboardInterrupt as error:
            if str(error) or not checkpoint.exists(folder):
                raise
            raise KeyboardInterrupt("interrupted; --resume continues from what is done") from error


@dataclass(frozen=True)
class CreateReport:
    """What was made. Sizes in bytes, losses in nats per supervised token.

    log, plot, report: what is kept beside the profile (`profiles.store`), where it was made.
    """

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
    log: Path | None = None
    plot: Path | None = None
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The document of `zen train --json` and `zen compress --json`."""
        out = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("losses", "layers")}
        for name in ("path", "log", "plot", "report"):
            out[name] = None if out[name] is None else str(out[name])
        if self.layers:
            out["layers"] = [asdict(layer) for layer in self.layers]
        return out


def mean_of(model: Any, rows: list[TokenRow], name: str, on_event: OnEvent) -> Loss:
    """Mean loss over `rows`, told as the stage `name`."""
    return mean_loss(model, rows, stage(on_event, name))


def retention(base: float, profile: float, reference: float) -> float | None:
    """100 * (base - profile) / (base - reference): percent of the reference's gain that the profile keeps."""
    return 100 * (base - profile) / (base - reference) if base != reference else None


def quality_metrics(base: Loss | None, profile: Loss, reference: Loss | None) -> dict[str, float | None]:
    """What a profile's metrics say about how it did: loss, perplexity = e^loss and agreement of each, retention.

    agreement: share of the supervised held-out tokens that are the model's first choice, given the ones before them.
    """
    found: dict[str, float | None] = {}
    for name, loss in (("base", base), ("profile", profile), ("reference", reference)):
        if loss is not None:
            found[f"{name}_loss"] = loss.nats
            found[f"{name}_perplexity"] = math.exp(min(loss.nats, 709.0))
            found[f"{name}_agreement"] = loss.agreement
    if base is not None and reference is not None:
        found["retention"] = retention(base.nats, profile.nats, reference.nats)
    return found


def measure_and_save(
    run: RunContext, model: Any, profile: Profile, held: HeldOut, answers: BeforeAfter | None = None
) -> CreateReport:
    """Save `profile`, with its loss on the held-out rows beside the others' where there are any, and `answers`' report."""
    if held.rows:
        if answers is not None:
            answers.before(model, stage(run.on_event, "answers of the base"))
        attach(model, Resident.from_profile(profile, consume=False))
        try:
            loss = mean_of(model, held.rows, "held-out loss of the profile", run.on_event)
            if answers is not None:
                answers.after(model, stage(run.on_event, "answers of the profile"))
        finally:
            detach(model)
        profile.metrics |= {
            **quality_metrics(held.base, loss, held.reference),
            "held_out_rows": len(held.examples),
            "held_out_tokens": loss.tokens,
            "held_out_sha256": data_digest(held.examples),
        }
    path = run.store.save(run.name, profile, run.replace or run.resume)
    header = read_header(path)
    report = None
    if held.rows and answers is not None:
        report = answers.write(report_path(run.store.home, run.name), run.name, header.metrics)
    return CreateReport(
        profile=run.name,
        path=path,
        file_bytes=header.file_bytes or 0,
        parameter_count=header.target_count,
        bits_per_weight=header.bits_per_weight or 0.0,
        ratio_fp32=header.ratio_fp32 or 0.0,
        ratio_fp16=header.ratio_fp16 or 0.0,
        seconds=round(time.monotonic() - run.began, 3),
        peak_memory_bytes=peak_memory_bytes(),
        metrics={"base_loss": None, "profile_loss": None, "reference_loss": None, **header.metrics},
        report=report,
    )
