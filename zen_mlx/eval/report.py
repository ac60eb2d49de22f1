"""Evaluation of a base, its profiles and a reference on one data set: the document of `zen eval`.

The reference comes first and is gone before the base is loaded, so that two models are in memory only where its logits do
not fit on the disk.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..base.load import load_tokenizer
from ..base.loaded import base_info, check_base, context_length
from ..base.pull import pull
from ..base.validate import read_config
from ..data.examples import data_digest, load_files
from ..data.tokens import TokenRow, tokenize
from ..errors import ConfigError
from ..events import OnEvent, Stage, ignore, stage, stages
from ..fsio import Json
from ..manager import ZenPersonalizationManager
from ..recipes.common import retention
from . import answers, tasks
from .layer_errors import layer_errors
from .measure import Beside, Measured, Recorded, measure
from .reference_model import Reference, keep_logits, open_reference


@dataclass(frozen=True)
class _Work:
    """What is asked of every model. prompts: to be answered; table: lm-eval's tasks, of which `limit` documents each."""

    rows: list[TokenRow]
    tokenizer: TokenizerWrapper
    prompts: list[answers.Prompt]
    table: Json | None
    limit: int | None
    on_event: OnEvent

    def answers(self, model: Any, name: str) -> list[str]:
        progress = stage(self.on_event, f"answers of {name}")
        return answers.greedy_answers(model, self.tokenizer, self.prompts, progress) if self.prompts else []

    def tasks(self, model: nn.Module, name: str) -> Json:
        if self.table is None:
            return {}
        self.on_event(Stage(f"tasks of {name}", 0, 0))
        return {"tasks": tasks.run_tasks(model, self.tokenizer, self.table, self.limit)}


@dataclass(frozen=True)
class _Compared:
    """What the reference left behind: its logits, what it measures, its answers and its entry in the document."""

    logits: Recorded | Beside
    measured: Measured
    answers: list[str]
    entry: Json


def evaluate(
    manager: ZenPersonalizationManager,
    data: str | Path,
    profiles: Sequence[str] = (),
    *,
    reference: str | None = None,
    limit: int | None = None,
    answer_rows: int | None = 0,
    task_names: Sequence[str] = (),
    download: bool = False,
    run_code: bool = False,
    by_layer: bool = False,
    on_event: OnEvent | None = None,
) -> Json:
    """The document of `zen eval --json`, the base first; loss = mean nats per supervised token, nothing truncated.

    retention = 100 * (base - profile) / (base - reference), kl and agreement are against the reference: null without one.
    `limit`: only the first rows, and documents of each task. `answer_rows`: greedy answers to compare with the reference's;
    None: a few, where there is a reference, a conversation and sacrebleu.
    `by_layer`: `layer_errors` of every profile. `download` lets tasks fetch their data, `run_code` run what a model writes.
    """
    on_event = on_event or ignore
    if answer_rows is None and (reference is None or not answers.have_scores()):
        answer_rows = 0
    _check(limit, answer_rows, by_layer, reference, profiles)
    headers = {name: manager.store.header(name) for name in profiles}
    examples = load_files([data])[:limit]
    table = tasks.load_tasks(task_names, download=download, run_code=run_code) if task_names else None
    prompts = [] if answer_rows == 0 else answers.choose_prompts(examples, answer_rows)
    folder = pull(manager.model_name, stages(on_event))
    for name, header in headers.items():
        check_base(base_info(manager.model_name), header.base, name)
    tokenizer = load_tokenizer(folder)
    rows = tokenize(examples, tokenizer, context_length(read_config(folder)))
    work = _Work(rows, tokenizer, prompts, table, limit, on_event)
    opened = open_reference(manager, reference) if reference is not None else None
    errors = _layers(manager, opened, profiles, work) if by_layer and opened is not None else {}
    compared = _ask(opened, manager, work) if opened is not None else None
    try:
        results = list(_results(manager, profiles, work, compared, errors))
    finally:
        if compared is not None:
            compared.logits.close()
    return {
        "model": manager.model_name,
        "data": {
            "path": str(data),
            "sha256": data_digest(examples),
            "examples": len(examples),
            "tokens": sum(row.targets for row in rows),
        }
        | ({"answers": len(prompts)} if prompts else {}),
        "results": results,
        "reference": compared.entry if compared is not None else None,
    }


def _check(
    limit: int | None, answer_rows: int | None, by_layer: bool, reference: str | None, profiles: Sequence[str]
) -> None:
    if limit is not None and limit < 1:
        raise ConfigError("bad limit", field="limit", expected="at least 1", found=limit)
    if answer_rows is not None and answer_rows < 0:
        raise ConfigError("bad number of answers", field="answers", expected="0 or more", found=answer_rows)
    if reference is None and (answer_rows or by_layer):
        raise ConfigError(
            "there is nothing to compare with",
            field="answers" if answer_rows else "heatmap",
            hint="--reference names the fine-tune",
        )
    if by_layer and not profiles:
        raise ConfigError("a heat map needs a profile", field="heatmap", hint="-p NAME names one")
    if answer_rows:
        answers.need_scores()


def _layers(
    manager: ZenPersonalizationManager, reference: Reference, profiles: Sequence[str], work: _Work
) -> dict[str, dict[str, float]]:
    whole = {name: manager.store.load(name) for name in profiles}
    return layer_errors(reference, manager.model_name, whole, stage(work.on_event, "layers"))


def _ask(reference: Reference, manager: ZenPersonalizationManager, work: _Work) -> _Compared:
    """Everything that is wanted of the reference; where its logits are on disk, it is out of memory afterwards."""
    model = reference.load(manager.model_name)
    base_bytes = sum(file.stat().st_size for file in pull(manager.model_name).glob("*.safetensors"))
    said = work.answers(model, "reference")
    scores = work.tasks(model, "reference")
    logits, measured = keep_logits(model, work.rows, base_bytes, stage(work.on_event, "reference"))
    del model
    gc.collect()
    mx.clear_cache()
    entry = {
        "path": reference.path,
        "kind": reference.kind,
        "loss": measured.nats,
        "perplexity": measured.perplexity,
        "accuracy": measured.accuracy,
    }
    return _Compared(logits, measured, said, entry | scores)


def _results(
    manager: ZenPersonalizationManager,
    profiles: Sequence[str],
    work: _Work,
    compared: _Compared | None,
    errors: dict[str, dict[str, float]],
) -> Iterable[Json]:
    base = 0.0
    for name in (None, *profiles):
        with manager.using(name):
            shown = name or "base"
            found = measure(
                manager.model, work.rows, compared.logits if compared else None, stage(work.on_event, shown)
            )
            base = found.nats if name is None else base
            yield {
                "profile": name,
                "loss": found.nats,
                "perplexity": found.perplexity,
                "retention": None
                if name is None or compared is None
                else retention(base, found.nats, compared.measured.nats),
                "accuracy": found.accuracy,
                "kl": found.kl,
                "agreement": found.agreement,
                **_scores(work.answers(manager.model, shown) if compared else [], compared),
                **work.tasks(manager.model, shown),
                **({"layer_error": errors[name]} if name in errors else {}),
            }


def _scores(said: list[str], compared: _Compared | None) -> dict[str, float | None]:
    if not said or compared is None:
        return {"bleu": None, "chrf": None}
    bleu, chrf = answers.score(said, compared.answers)
    return {"bleu": bleu, "chrf": chrf}
