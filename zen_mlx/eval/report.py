"""Held-out loss of a base, its profiles and a full fine-tune on one data set, and the share of the gain that is kept."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..base.load import load_model
from ..base.pull import pull
from ..data.examples import data_digest, load_files
from ..data.tokens import tokenize
from ..errors import ConfigError
from ..made import Stage, mean_of, retention
from ..manager import ZenPersonalizationManager


def evaluate(
    manager: ZenPersonalizationManager,
    data: str | Path,
    profiles: Sequence[str] = (),
    *,
    reference: str | None = None,
    limit: int | None = None,
    on_event: Callable[[Stage], None] | None = None,
) -> dict[str, Any]:
    """The document of `zen eval --json`, the base first; loss = mean nats per supervised token, nothing truncated.

    retention = 100 * (base - profile) / (base - reference), null without a reference. `limit`: only the first rows.
    """
    tell = on_event or (lambda event: None)
    if limit is not None and limit < 1:
        raise ConfigError("bad limit", field="limit", expected="at least 1", found=limit)
    headers = {name: manager.store.header(name) for name in profiles}
    examples = load_files([data])[:limit]
    base = manager.base
    for name, header in headers.items():
        base.check(header.base, name)
    rows = tokenize(examples, base.tokenizer, base.context_length)
    with manager.using(None):
        base_loss = mean_of(manager.model, rows, "base", tell)
    reference_loss = None
    if reference is not None:
        tuned = load_model(pull(reference))
        reference_loss = mean_of(tuned, rows, "reference", tell).nats
        del tuned
        gc.collect()
    results = [_result(None, base_loss.nats, base_loss.nats, reference_loss)]
    for name in profiles:
        with manager.using(name):
            loss = mean_of(manager.model, rows, name, tell).nats
        results.append(_result(name, loss, base_loss.nats, reference_loss))
    return {
        "model": manager.model_name,
        "data": {
            "path": str(data),
            "sha256": data_digest(examples),
            "examples": len(examples),
            "tokens": base_loss.tokens,
        },
        "results": results,
        "reference": None
        if reference_loss is None
        else {"path": reference, "loss": reference_loss, "perplexity": _perplexity(reference_loss)},
    }


def _result(name: str | None, loss: float, base: float, reference: float | None) -> dict[str, Any]:
    kept = None if name is None or reference is None else retention(base, loss, reference)
    return {"profile": name, "loss": loss, "perplexity": _perplexity(loss), "retention": kept}


def _perplexity(loss: float) -> float:
    """e^loss, capped where a float ends."""
    return math.exp(min(loss, 709.0))
