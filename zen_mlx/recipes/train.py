"""Train -> measure -> save: how a profile comes from data. The manager, the command line and tests all come here."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

from .. import fsio
from ..adapter.attach import detach, model_count, target_count
from ..base.load import load_tokenizer
from ..base.loaded import context_length
from ..base.pull import pull
from ..base.validate import read_config
from ..config import TrainOptions
from ..data.examples import Example, ImportOptions, data_digest, import_examples, split_held_out
from ..data.loss import Loss
from ..data.tokens import TokenRow, crop, tokenize_usable, with_model
from ..errors import DataError, TrainingError
from ..events import Event, Noted, Prepared
from ..format.spec import DeltaTensor, Profile, now, profile_info
from ..paths import log_path, plot_path
from ..train import checkpoint
from ..train.distill import refine
from ..train.distributed import process_group as find_team
from ..train.log import LOG, RunLog, read
from ..train.memory_estimate import fit_run
from ..train.methods import SignMethod, with_method
from ..train.plot import plot_run
from ..train.trainer import TrainResult, check_run, method_of, train
from .common import CreateReport, HeldOut, RunContext, claimed, mean_of, measure_and_save
from .samples import BeforeAfter

REFINING = "distill"
"""Where a run keeps what it distils with."""


@dataclass(frozen=True)
class TrainData:
    """What a run learns from and is measured on. rows: of at most max_length tokens, `cut` longer ones among them."""

    examples: list[Example]
    held: list[Example]
    rows: list[TokenRow]
    held_rows: list[TokenRow]
    cut: int


def train_profile(
    run: RunContext,
    data: Any,
    options: TrainOptions,
    *,
    valid: Any = None,
    imports: ImportOptions | None = None,
    memory_limit: int | None = None,
    records: bool = True,
) -> CreateReport:
    """Train a profile from `data` and save it; the base is loaded once the data is known to be usable.

    Before that, `MemoryLimitError` where the run would take more than `memory_limit` bytes (None: what the machine has).
    Its log is kept beside it, and with `records` the plot of its losses and a few answers before and after it. Under MLX's
    launcher all ranks train it together: rank 0 writes, the others return its report.
    """
    team = find_team()
    with team.together(), claimed(run) if team.leads else contextlib.nullcontext():
        found = read_data(run, data, options, valid, imports)
        rows, held_rows = found.rows, found.held_rows
        fitted = fit_run(run.base_name, rows, held_rows, options, memory_limit).check()
        if fitted is not options:
            run.on_note("Gradient checkpointing is on: the run does not fit in memory without it.")
        at = run.base()
        detach(at.model)
        options = with_method(fitted, at.model)
        steps = check_run(at.model, rows, options, held_rows).steps
        wanted: dict[str, Any] = {
            "data": data_digest(found.examples),
            "held_out": data_digest(found.held),
            "weights": at.info.weights,
            "tokenizer": at.info.tokenizer,
            "options": options.facts(),
        }
        team.check_same(wanted)
        if not team.leads:
            trained = train(at.model, rows, options, held=held_rows, on_event=run.on_event, team=team)
            return _told(team.lead(None), trained.losses)
        state, folder = None, run.folder
        if run.resume:
            facts = checkpoint.check_same(folder, wanted)
            state = checkpoint.load(folder, lambda text: run.on_event(Noted(text)))
        else:
            checkpoint.remove(folder)
            facts = {**wanted, "info": profile_info(run.name, now(), str(options.method))}
            checkpoint.begin(folder, facts)
        done = state.step if state is not None else 0
        log = RunLog(folder / LOG, done)
        log.write("resume" if done else "start", step=done, steps=steps, rows=len(rows), **wanted)
        tokens = sum(row.targets for row in rows)
        run.on_event(Prepared(len(rows), len(found.held), found.cut, steps, tokens, done, log.path))
        if held_rows and "base" not in facts:
            facts["base"] = asdict(mean_of(at.model, held_rows, "held-out loss of the base", run.on_event))
            checkpoint.begin(folder, facts)

        def seen(event: Event) -> None:
            log.take(event)
            run.on_event(event)

        logged = replace_fields(run, on_event=seen)
        result = train(at.model, rows, options, held=held_rows, folder=folder, state=state, on_event=seen, team=team)
        profile = Profile(
            info=facts["info"],
            base=at.info.header(),
            metrics={
                "data_sha256": facts["data"],
                "seed": options.seed,
                "steps": result.step,
                "train_rows": len(found.examples),
            },
            target_count=target_count(at.model),
            model_count=model_count(at.model),
            tensors=_stored(logged, at.model, result, rows, options),
        )
        held = HeldOut(found.held, held_rows, Loss(**facts["base"]) if held_rows else None)
        answers = BeforeAfter(found.held, at.tokenizer) if records else None
        report = replace_fields(measure_and_save(run, at.model, profile, held, answers), losses=result.losses)
        log.write("done", step=result.step, **report.metrics)
        report = _keep_records(run, log, report, f"{run.name}: {options.method}, {result.steps} steps", records)
        checkpoint.remove(folder)
        with contextlib.suppress(TrainingError):  # a rank that is gone takes nothing from what is saved
            team.lead(report.to_dict())
    return report


def read_data(
    run: RunContext, data: Any, options: TrainOptions, valid: Any = None, imports: ImportOptions | None = None
) -> TrainData:
    """`data` as the base's tokenizer cuts it, split by the rule of `--valid`; no weight of the base is read."""
    examples, imported = import_examples(data, imports)
    examples, held = split(examples, valid, imports)
    folder = pull(run.base_name, run.on_pull)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder, config)
    learned = tokenize_usable(examples, tokenizer, options.max_length)
    measured = tokenize_usable(held, tokenizer, context_length(config))
    run.on_event(with_model(imported, learned, measured))
    if not learned.rows and learned.first_fault:
        raise learned.first_fault
    rows, cut = crop(learned.rows, options.max_length)
    if not rows:
        raise DataError("every row is longer than max_length", field="max_length", found=options.max_length)
    return TrainData(learned.examples, measured.examples, rows, measured.rows, cut)


def _stored(
    run: RunContext, model: Any, result: TrainResult, rows: list[TokenRow], options: TrainOptions
) -> dict[str, DeltaTensor]:
    """What the method stores of its arrays; those of a full-precision run are distilled first."""
    method = method_of(options, model)
    steps = options.refine_steps(result.steps)
    if steps and isinstance(method, SignMethod):
        return refine(model, result.latents, method.planes, rows, options, steps, run.folder / REFINING, run.on_event)
    return method.encode(result.latents)


def _keep_records(run: RunContext, log: RunLog, report: CreateReport, title: str, plot: bool) -> CreateReport:
    """`report` with the log of the run, copied beside the profile, and the plot of it."""
    place = log_path(run.store.home, run.name)
    fsio.write_bytes(place, log.path.read_bytes(), mode=fsio.PRIVATE_FILE_MODE)
    picture = None
    if plot:
        picture = plot_path(run.store.home, run.name)
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
