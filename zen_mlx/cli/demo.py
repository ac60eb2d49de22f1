"""zen demo: the whole way once on the embedded base, from nothing to two profiles and their mix."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from .. import paths
from . import _run_view, _view

if TYPE_CHECKING:
    from ..manager import ZenPersonalizationManager

DEMO_STEPS = 8
DEMO_BATCH = 8
DEMO_LENGTH = 96
DEMO_ROWS = 16  # rows of each held-out file that losses are measured on
DEMO_TOKENS = 40
PROMPTS = ("Define: love", "Define: computer", "Define: politics")
TRAINED, READY, MERGED = "cynic", "hacker", "cynic-hacker"
WEIGHTS = (0.7, 0.3)


def demo() -> None:
    """Train a profile, switch between profiles and mix them, on the embedded base.

    Takes under five minutes on two CPU cores. The first run fetches the base (93 MB). A profile of the same name that is
    there already is used as it is, and nothing of yours is overwritten.

    Examples:

    \b
      zen demo
    """
    from ..base import pull, registry
    from ..config import BitDeltaConfig
    from ..manager import ZenPersonalizationManager

    began = time.monotonic()
    folder = paths.examples_dir()
    _head(f"1. The base: {registry.EMBEDDED}, frozen from here on")
    with _view.progress() as bars:
        path = pull.pull(registry.EMBEDDED, bars)
    manager = ZenPersonalizationManager(registry.EMBEDDED, config=BitDeltaConfig())
    start = time.perf_counter()
    base_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    manager.model  # noqa: B018  loads it
    _view.say(f"   {_view.size(base_bytes)}, loaded in {_view.duration(time.perf_counter() - start)}")
    _train(manager, folder)
    _import_ready(manager, folder)
    _answers(manager)
    _losses(manager, folder)
    _sizes(manager)
    _merge(manager)
    _head(f"That took {_view.duration(time.monotonic() - began)}. Next:")
    for line in (
        f"zen chat -p {TRAINED}",
        f"zen train {folder / 'cynic.train.jsonl'} --profile {TRAINED} --replace   # all of it: two passes",
        "zen train YOUR_FILES --profile me",
        f"zen inspect {paths.profile_path(paths.zen_home(), TRAINED)}",
    ):
        _view.say(f"   {line}")


def _train(manager: ZenPersonalizationManager, folder: Path) -> None:
    _head(f"2. A profile trained here: {TRAINED}, in the voice of The Devil's Dictionary (1911)")
    if _usable(manager, TRAINED):
        return
    with _run_view.run_events(False) as tell:
        report = manager.create_profile(
            TRAINED,
            folder / "cynic.train.jsonl",
            valid="none",
            steps=DEMO_STEPS,
            batch_size=DEMO_BATCH,
            max_length=DEMO_LENGTH,
            records=False,
            on_event=tell,
        )
    rows = DEMO_STEPS * DEMO_BATCH
    _view.say(f"   {DEMO_STEPS} steps, {rows} of {report.metrics['train_rows']} rows, {_view.duration(report.seconds)}")


def _import_ready(manager: ZenPersonalizationManager, folder: Path) -> None:
    _head(f"3. A profile brought along ready-made: {READY}, in the voice of The Jargon File")
    if _usable(manager, READY):
        return
    file = folder / f"{READY}.bitdelta"
    manager.import_profile(file, READY)
    _view.say(f"   {file.name}, {_view.size(file.stat().st_size)}, every byte verified, made for exactly these weights")


def _usable(manager: ZenPersonalizationManager, name: str) -> bool:
    """True when a profile of that name is there and belongs to this base, which is said."""
    if not manager.store.exists(name):
        return False
    manager.base.check(manager.store.header(name).base, name)
    _view.say(f"   {name} is here already and is used as it is (zen profile remove {name} starts afresh)")
    return True


def _answers(manager: ZenPersonalizationManager) -> None:
    _head("4. The same prompts, three voices (greedy)")
    listing = _view.table("prompt", "base", TRAINED, READY)
    voices = (None, TRAINED, READY)
    with _view.progress() as bars:
        for row, prompt in enumerate(PROMPTS):
            cells = []
            for column, profile in enumerate(voices):
                bars("answering", row * len(voices) + column, len(PROMPTS) * len(voices))
                cells.append(_answer(manager, prompt, profile))
            listing.add_row(*map(_view.cell, (prompt, *cells)), end_section=True)
    _view.show(listing)


def _answer(manager: ZenPersonalizationManager, prompt: str, profile: str | None) -> str:
    from ..config import Sampling
    from ..engine.decoding import generate

    with manager.using(profile):
        result = generate(manager.model, manager.tokenizer, prompt, Sampling(DEMO_TOKENS, 0.0))
    return result.text.strip() + (" ..." if result.finish_reason == "length" else "")


def _losses(manager: ZenPersonalizationManager, folder: Path) -> None:
    from ..eval.report import evaluate

    _head(f"5. Loss on held-out rows: the first {DEMO_ROWS} of each file (lower is better; nats per token)")
    columns = {}
    with _run_view.run_events(False) as tell:
        for name in (TRAINED, READY):
            file = folder / f"{name}.valid.jsonl"
            report = evaluate(manager, file, [TRAINED, READY], limit=DEMO_ROWS, on_event=tell)
            columns[name] = [row["loss"] for row in report["results"]]
    heads = [f"on {name}.valid" for name in columns]
    listing = _view.table("", *heads, right=tuple(heads))
    for row, label in enumerate(("base", TRAINED, READY)):
        listing.add_row(label, *(f"{losses[row]:.3f}" for losses in columns.values()))
    _view.show(listing)


def _sizes(manager: ZenPersonalizationManager) -> None:
    _head("6. What a profile costs")
    listing = _view.table("profile", "size", "bits/weight", "than f32", "than f16", "switch to it", "and back")
    for name in (TRAINED, READY):
        header = manager.store.header(name)
        there, back = _switch_times(manager, name)
        listing.add_row(
            name,
            _view.size(header.file_bytes),
            _view.number(header.bits_per_weight),
            f"{_view.number(header.ratio_fp32, 1)}x smaller",
            f"{_view.number(header.ratio_fp16, 1)}x smaller",
            _view.duration(there),
            _view.duration(back),
        )
    _view.show(listing)


def _switch_times(manager: ZenPersonalizationManager, name: str) -> tuple[float, float]:
    """Seconds to a profile that is in memory, with its weights computed, and back to the base; the best of three."""
    import mlx.core as mx

    there, back = [], []
    for _ in range(3):
        start = time.perf_counter()
        mx.eval(manager.activate_profile(name).parameters())
        middle = time.perf_counter()
        mx.eval(manager.deactivate().parameters())
        there.append(middle - start)
        back.append(time.perf_counter() - middle)
    return min(there), min(back)


def _merge(manager: ZenPersonalizationManager) -> None:
    first, second = WEIGHTS
    _head(f"7. A mix: {first} {TRAINED} + {second} {READY}")
    if not _usable(manager, MERGED):
        manager.merge_profiles([TRAINED, READY], list(WEIGHTS), name=MERGED)
    header = manager.store.header(MERGED)
    _view.say(f"   {MERGED}: {_view.size(header.file_bytes)}, exact; it answers {PROMPTS[0]!r} with")
    _view.say(f"   {_view.printable(_answer(manager, PROMPTS[0], MERGED))}")


def _head(text: str) -> None:
    _view.say(f"\n{text}")
