"""zen train: data -> a profile, with the numbers while it happens."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import BitDeltaConfig, MethodName, TrainOptions
from ..events import Event, ImportReport, OnEvent
from . import _launch, _memory_view, _model, _run_view, _view
from . import data as _data
from ._options import AsJson, AsText, Columns, KeepContacts, Me, Model, Replace, option

_setting = functools.partial(option, TrainOptions)
_knob = functools.partial(option, BitDeltaConfig, panel="Whitepaper's knobs")


@_launch.one_voice()
def train(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Files, folders and archives.")],
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="Name of the new profile.")],
    model: Model = None,
    method: Annotated[MethodName | None, _setting("method")] = None,
    bits_per_weight: Annotated[float | None, _setting("bits_per_weight")] = None,
    factor_scales: Annotated[bool, _setting("factor_scales")] = TrainOptions.factor_scales,
    epochs: Annotated[float | None, _setting("epochs")] = None,
    steps: Annotated[int | None, _setting("steps")] = None,
    valid: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|none",
            help="Held-out data; none: train on all. Default: 5 % of DATA, at most 50 rows, if it has 40 rows or more.",
        ),
    ] = None,
    distill_steps: Annotated[int, _setting("distill_steps")] = TrainOptions.distill_steps,
    batch_size: Annotated[int, _setting("batch_size")] = TrainOptions.batch_size,
    max_length: Annotated[int, _setting("max_length")] = TrainOptions.max_length,
    accumulate: Annotated[int, _setting("accumulate")] = TrainOptions.accumulate,
    seed: Annotated[int, _setting("seed")] = TrainOptions.seed,
    me: Me = None,
    columns: Columns = None,
    keep_contacts: KeepContacts = False,
    as_text: AsText = None,
    eval_every: Annotated[int | None, _setting("eval_every")] = None,
    patience: Annotated[int | None, _setting("patience")] = None,
    checkpoint_every: Annotated[float, _setting("checkpoint_s")] = TrainOptions.checkpoint_s,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Skip the plot of the losses and the answers before and after.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped, killed or failed.")
    ] = False,
    micro_tokens: Annotated[int, _setting("micro_tokens")] = TrainOptions.micro_tokens,
    grad_checkpoint: Annotated[bool | None, _setting("grad_checkpoint")] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most memory the run may take, such as 12GB. Default: what the machine has."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the data as `zen data preview` does, and the memory needed; train nothing.",
        ),
    ] = False,
    replace: Replace = False,
    as_json: AsJson = False,
    no_straight_through: Annotated[bool, _knob("straight_through")] = not BitDeltaConfig.straight_through,
    per_channel_scale: Annotated[bool, _knob("use_per_channel_scale")] = BitDeltaConfig.use_per_channel_scale,
    block_size: Annotated[int, _knob("block_size")] = BitDeltaConfig.block_size,
    learning_rate_scale: Annotated[float, _knob("learning_rate_scale")] = BitDeltaConfig.learning_rate_scale,
    warmup_steps: Annotated[int, _knob("warmup_steps")] = BitDeltaConfig.warmup_steps,
    delta_regularization: Annotated[float, _knob("delta_regularization")] = BitDeltaConfig.delta_regularization,
    sparsity_penalty: Annotated[float, _knob("sparsity_penalty")] = BitDeltaConfig.sparsity_penalty,
) -> None:
    """Train a profile from your own data.

    DATA is rows (.jsonl, .json, .csv), texts (.txt, .md), mail (mbox) or exported chats (WhatsApp, Telegram, Slack,
    iMessage), mixed as you like. Keys, passwords, card numbers and contacts are scrubbed first; zen data preview shows how.
    Ctrl-C saves the run, and --resume goes on with it, also after a crash or kill -9. Loss, perplexity and token agreement
    are measured before and after on held-out data. The run's log, the plot of its losses and a few answers before and
    after stay under ZEN_HOME and never leave with the profile.

    Examples:

    \b
      zen train cynic.jsonl --profile cynic
      zen train notes/ --profile me --epochs 3 --valid none
      zen train cynic.jsonl --profile small --method factor --bits-per-weight 0.05
      zen train chats.zip mails.mbox --profile me --me "Kim Doe" --me kim@example.org
      zen train mails.jsonl --profile work -m zen-nano-4b --batch-size 8 --accumulate 2
      zen train cynic.jsonl --profile cynic --epochs 10 --patience 3
      zen train cynic.jsonl --profile cynic --resume
      zen train mails.jsonl --profile work -m zen-nano-4b --dry-run
    """
    from ..errors import ConfigError, DataError
    from ..events import stages
    from ..paths import check_name

    if epochs is not None and steps is not None:
        raise ConfigError("--epochs and --steps say the same in two ways", field="steps", expected="one of them")
    for path in data:
        if not path.exists():
            raise DataError("no such file or folder", path=path)
    config = BitDeltaConfig(
        block_size=block_size,
        use_per_channel_scale=per_channel_scale,
        straight_through=not no_straight_through,
        delta_regularization=delta_regularization,
        sparsity_penalty=sparsity_penalty,
        learning_rate_scale=learning_rate_scale,
        warmup_steps=warmup_steps,
    )
    settings: dict[str, Any] = {
        "valid": valid if valid in (None, "none") else Path(valid),
        "me": me,
        "columns": columns,
        "keep_contacts": keep_contacts,
        "as_text": as_text,
        "epochs": TrainOptions.epochs if epochs is None else epochs,
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "max_length": max_length,
        "seed": seed,
        "method": method,
        "bits_per_weight": bits_per_weight,
        "factor_scales": factor_scales,
        "eval_every": eval_every,
        "distill_steps": distill_steps,
        "patience": patience,
        "micro_tokens": micro_tokens,
        "grad_checkpoint": grad_checkpoint,
        "memory_limit": _memory_view.limit_bytes(memory_limit),
    }
    with _run_view.run_events(as_json) as tell:
        manager = _model.lazy_manager(model, stages(tell), config)
        if dry_run:
            from ..data.importers.tally import ImportOptions

            check_name(profile)
            imports = ImportOptions.of(me, columns, keep_contacts, 3 * max_length, as_text)
            seen = _data.look(data, imports, manager.model_name, settings["valid"])
            fitted = manager.plan_profile(data, **settings, on_event=lambda event: _told(tell, event))
        else:
            report = manager.create_profile(
                profile,
                data,
                **settings,
                checkpoint_s=checkpoint_every,
                records=not no_report,
                resume=resume,
                replace=replace,
                on_event=tell,
            )
    if dry_run:
        if as_json:
            _view.emit({**_memory_view.document(fitted), "data": _data.document(seen)})
        else:
            _data.show(seen)
            _memory_view.show(fitted)
    elif as_json:
        _view.emit(report.to_dict())
    else:
        _run_view.show_summary(report)


def _told(tell: OnEvent, event: Event) -> None:
    """Tell all but the report on the data, which a dry run prints."""
    if not isinstance(event, ImportReport):
        tell(event)
