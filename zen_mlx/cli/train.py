"""zen train: data -> a profile, with the numbers while it happens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import _launch, _memory_view, _model, _run_view, _view
from ._options import AsJson, Columns, KeepContacts, Me, Model, Replace


@_launch.one_voice()
def train(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Files, folders and archives.")],
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="Name of the new profile.")],
    model: Model = None,
    method: Annotated[
        Literal["sign", "factor"] | None,
        typer.Option(
            help="sign: one bit per weight, trained straight-through; factor: low rank, any size of file.",
            show_default="sign; factor for bases of 4B parameters and more",
        ),
    ] = None,
    bits_per_weight: Annotated[
        float | None,
        typer.Option(
            metavar="B",
            help="Most bits of the whole file per target weight. Default for factor: 0.33.",
            show_default=False,
        ),
    ] = None,
    factor_scales: Annotated[
        bool,
        typer.Option(
            "--factor-scales",
            help="factor: also train a positive scale of each row and column, in place of some ranks.",
        ),
    ] = False,
    epochs: Annotated[
        float | None, typer.Option(metavar="E", help="Passes over the data. Default: 2.", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps, in place of --epochs.")] = None,
    valid: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|none", help="Held-out data. Default: the last 5 % by hash, at most 50, from 40 rows on."
        ),
    ] = None,
    no_straight_through: Annotated[
        bool,
        typer.Option(
            "--no-straight-through", help="sign: train in full precision, take signs and distil scales at the end."
        ),
    ] = False,
    distill_steps: Annotated[
        int, typer.Option(metavar="N", help="With --no-straight-through: most steps of the scales at the end; 0: none.")
    ] = 24,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows of a batch.")] = 16,
    max_length: Annotated[int, typer.Option(metavar="N", help="Most tokens of a row; longer ones are cut.")] = 1024,
    accumulate: Annotated[int, typer.Option(metavar="N", help="Batches of a step.")] = 1,
    seed: Annotated[int, typer.Option(metavar="N", help="Order of the rows.")] = 0,
    me: Me = None,
    columns: Columns = None,
    keep_contacts: KeepContacts = False,
    learning_rate_scale: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Times the reference rate: 1e-3 for sign (in full precision 5e-4), 1e-2 * sqrt(44 / rank) for factor.",
        ),
    ] = 0.1,
    eval_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Steps between two looks at the held-out loss; 0: none. Default: ten looks a run, at most every 10 steps.",
            show_default=False,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop after N looks without a new best held-out loss and keep the best state. Default: run to the end.",
            show_default=False,
        ),
    ] = None,
    checkpoint_every: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time between checkpoints; 0: after every step.")
    ] = 300.0,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Without the plot of the losses and the answers before and after.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run: stopped, killed or failed.")
    ] = False,
    micro_tokens: Annotated[
        int, typer.Option(metavar="N", help="Padded tokens of one forward and backward pass; a step sums several.")
    ] = 1024,
    grad_checkpoint: Annotated[
        bool | None,
        typer.Option(
            "--grad-checkpoint/--no-grad-checkpoint",
            help="Make activations anew for the backward pass: less memory, a third slower, the same profile. "
            "Default: where only that fits.",
            show_default=False,
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory the run may take, such as 12GB. Default: what the machine has.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the memory that the run would need; train nothing.")
    ] = False,
    replace: Replace = False,
    as_json: AsJson = False,
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
    from ..config import BitDeltaConfig
    from ..errors import ConfigError, DataError

    if epochs is not None and steps is not None:
        raise ConfigError("--epochs and --steps say the same in two ways", field="steps", expected="one of them")
    for path in data:
        if not path.exists():
            raise DataError("no such file or folder", path=path)
    config = BitDeltaConfig(straight_through=not no_straight_through, learning_rate_scale=learning_rate_scale)
    settings: dict[str, Any] = {
        "valid": valid if valid in (None, "none") else Path(valid),
        "me": me,
        "columns": columns,
        "keep_contacts": keep_contacts,
        "epochs": 2.0 if epochs is None else epochs,
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
        manager = _model.lazy_manager(model, tell, config)
        if dry_run:
            fitted = manager.plan_profile(data, **settings, on_event=tell)
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
        _view.emit(_memory_view.document(fitted)) if as_json else _memory_view.show(fitted)
    elif as_json:
        _view.emit(report.to_dict())
    else:
        _run_view.show_summary(report)
