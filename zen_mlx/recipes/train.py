"""Train -> measure -> save: how a profile comes from data. The manager, the command line and tests all come here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

from .. import fsio
from ..adapter.attach import detach, model_count, target_count
from ..base.loaded import Base
from ..config import TrainOptions
from ..data.examples import Example, ImportOptions, data_digest, import_examples, split_held_out
from ..data.loss import Loss
from ..data.tokens import TokenRow, crop, tokenize
from ..errors import DataError, TrainingError
from ..events import Event, Noted, OnEvent, Prepared, ignore
from ..format.spec import DeltaTensor, Profile, now, profile_info
from ..paths import log_path, plot_path, run_dir
from ..profiles.store import ProfileStore
from ..train import checkpoint
from ..train.distill import refine
from ..train.distributed import process_group as find_team
from ..train.log import LOG, RunLog, read
from ..train.methods import SignMethod, with_method
from ..train.plot import plot_run
from ..train.trainer import TrainResult, check_run, method_of, train
from .common import CreateReport, claimed, mean_of, measure_and_save
from .samples import BeforeAfter

REFINING = "distill"
"""Where a run keeps what it distils with."""


Fit = Callable[[list[Example], list[Example], TrainOptions], TrainOptions]
"""(train, held out, options) -> options of a run that fits in memory; `MemoryLimitError` where there is none."""


def train_profile(
    store: ProfileStore,
    base: Callable[[], Base],
    name: str,
    data: Any,
    options: TrainOptions,
    *,
    valid: Any = None,
    imports: ImportOptions | None = None,
    fit: Fit | None = None,
    resume: bool = False,
    replace: bool = False,
    records: bool = True,
    on_event: OnEvent | None = None,
) -> CreateReport:
    """Train profile `name` from `data` and save it; `base` is called once the data is known to be usable.

    `fit` is asked before, and may refuse the run or change what memory depends on.

    Its log is kept beside it, and with `records` the plot of its losses and a few answers before and after it. Under MLX's
    launcher all ranks train it together: rank 0 writes, the others return its report.
    """
    on_event = on_event or ignore
    began = time.monotonic()
    folder = run_dir(store.home, name)
    team = find_team()
    with team.together(), claimed(store, name, resume, replace) if team.leads else contextlib.nullcontext():
        examples, imported = import_examples(data, imports)
        on_event(imported)
        examples, held = split(examples, valid, imports)
        options = fit(examples, held, options) if fit is not None else options
        at = base()
        detach(at.model)
        options = with_method(options, at.model)
        rows, cut = crop(tokenize(examples, at.tokenizer, options.max_length), options.max_length)
        if not rows:
            raise DataError("every row is longer than max_length", field="max_length", found=options.max_length)
        held_rows = tokenize(held, at.tokenizer, at.context_length)
        steps = check_run(at.model, rows, options, held_rows).steps
        wanted: dict[str, Any] = {
            "data": data_digest(examples),
            "held_out": data_digest(held),
            "weights": at.info.weights,
            "tokenizer": at.info.tokenizer,
            "options": options.facts(),
        }
        team.check_same(wanted)
        if not team.leads:
            trained = train(at.model, rows, options, held=held_rows, on_event=on_event, team=team)
            return _told(team.lead(None), trained.losses)
        state = None
        if resume:
            facts = checkpoint.check_same(folder, wanted)
            state = checkpoint.load(folder, lambda text: on_event(Noted(text)))
        else:
            checkpoint.remove(folder)
            facts = {**wanted, "info": profile_info(name, now(), str(options.method))}
            checkpoint.begin(folder, facts)
        done = state.step if state is not None else 0
        log = RunLog(folder / LOG, done)
        log.write("resume" if done else "start", step=done, steps=steps, rows=len(rows), **wanted)
        on_event(Prepared(len(rows), len(held), cut, steps, sum(row.targets for row in rows), done, log.path))
        if held_rows and "base" not in facts:
            facts["base"] = asdict(mean_of(at.model, held_rows, "held-out loss of the base", on_event))
            checkpoint.begin(folder, facts)

        def seen(event: Event) -> None:
            log.take(event)
            on_event(event)

        result = train(at.model, rows, options, held=held_rows, folder=folder, state=state, on_event=seen, team=team)
        profile = Profile(
            info=facts["info"],
            base=at.info.header(),
            metrics={
                "data_sha256": facts["data"],
                "seed": options.seed,
                "steps": result.step,
                "train_rows": len(examples),
            },
            target_count=target_count(at.model),
            model_count=model_count(at.model),
            tensors=_stored(at.model, result, rows, options, folder, seen),
        )
        report = measure_and_save(
            store,
            at.model,
            name,
            profile,
            held,
            held_rows,
            Loss(**facts["base"]) if held_rows else None,
            None,
            replace or resume,
            on_event,
            began,
            result.losses,
            answers=BeforeAfter(held, at.tokenizer) if records else None,
        )
        log.write("done", step=result.step, **report.metrics)
        report = _keep_records(store, name, log, report, f"{name}: {options.method}, {result.steps} steps", records)
        checkpoint.remove(folder)
        with contextlib.suppress(TrainingError):  # a rank that is gone takes nothing from what is saved
            team.lead(report.to_dict())
    return report


def _stored(
    model: Any,
    result: TrainResult,
    rows: list[TokenRow],
    options: TrainOptions,
    folder: Path,
    on_event: OnEvent,
) -> dict[str, DeltaTensor]:
    """What the road stores of its arrays; those of a full-precision run are distilled first."""
    method = method_of(options, model)
    steps = options.refine_steps(result.steps)
    if steps and isinstance(method, SignMethod):
        return refine(model, result.latents, method.planes, rows, options, steps, folder / REFINING, on_event)
    return method.encode(result.latents)


def _keep_records(
    store: ProfileStore, name: str, log: RunLog, report: CreateReport, title: str, plot: bool
) -> CreateReport:
    """`report` with the log of the run, copied beside the profile, and the plot of it."""
    place = log_path(store.home, name)
    fsio.write_bytes(place, log.path.read_bytes(), mode=fsio.PRIVATE_FILE_MODE)
    picture = None
    if plot:
        picture = plot_path(store.home, name)
        losses = report.metrics["base_loss"], report.metrics["profile_loss"]
        plot_run(read(place), picture, title, *losses)
    return replace_fields(report, log=place, plot=picture)


def _told(report: dict[str, Any], losses: list[float]) -> CreateReport:
    """Rank 0's report; its files are where rank 0 runs."""
    places = {name: Path(value) for name in ("path", "log", "plot", "report") if (value := report[name]) is not None}
    return CreateReport(**{**report, **places, "losses": losses})


def split(
    examples: list[Example], valid: Any, imports: ImportOptions | None = None
) -> tuple[list[Example], list[Example]]:
    """(train, held out) by the rule of `--valid`: DATA, "none", or None for the automatic split."""
    if valid is None:
        return split_held_out(examples)
    if isinstance(valid, str) and valid == "none":
        return examples, []
    return examples, import_examples(valid, imports)[0]
