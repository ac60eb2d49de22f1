"""What is served and what is right: a home with random profiles of every kind, and the answers of each alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from zen_mlx import ZenPersonalizationManager
from zen_mlx.adapter.targets import arrays, model_count, target_count, targets
from zen_mlx.base.pull import pull
from zen_mlx.bench.synthetic import factor_part, sign_part
from zen_mlx.codec.parts import DensePart, Part
from zen_mlx.config import Sampling
from zen_mlx.engine.decoding import answers, render
from zen_mlx.engine.request import Request
from zen_mlx.format.spec import DeltaTensor, Profile

MODEL = "soak"
KINDS = ("sign", "sign", "planes", "factor", "norms", "sign", "factor")
PROMPTS = ("Define: patience", "Name three birds.", "What is rain?", "Write a line about the sea.")
TOKENS = 32
SHAKEN_BY, SHAKES = 0.002, 4


@dataclass(frozen=True)
class Case:
    """One question and its only right answer. profile: None for the base."""

    profile: str | None
    prompt: str
    sampling: dict[str, Any]
    text: str
    reason: str

    @property
    def model(self) -> str:
        """The name that a client asks for."""
        return MODEL if self.profile is None else f"{MODEL}@{self.profile}"


def make_home(folder: Path, model: str) -> ZenPersonalizationManager:
    """A ZEN_HOME in `folder` where `model` is called MODEL, with a profile of every one of KINDS."""
    base = pull(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(f'[models]\n{MODEL} = "{base}"\n')
    manager = ZenPersonalizationManager(str(base), home=folder)
    for seed, kind in enumerate(KINDS):
        manager.store.save(f"p{seed}", profile_of(manager.base.model, kind, seed))
    return manager


def profile_of(model: Any, kind: str, seed: int) -> Profile:
    """A random profile, half as large as the weights; `norms` are signs and other norms and biases."""
    rng = np.random.default_rng(seed)
    wanted = targets(model)
    tensors: dict[str, DeltaTensor] = {}
    for name, _, _, array in arrays(model):
        parts: tuple[Part, ...] = ()
        if name in wanted:
            parts = _parts(rng, kind, wanted[name], 0.5 * float(mx.abs(array.astype(mx.float32)).mean()))
            tensors[name] = DeltaTensor(wanted[name], parts)
        elif kind == "norms" and array.ndim == 1 and mx.issubdtype(array.dtype, mx.floating):
            tensors[name] = DeltaTensor(tuple(array.shape), (DensePart(rng.normal(0, 0.1, array.shape).astype("<f2")),))
    return Profile(
        info={"name": kind},
        base={},
        metrics={},
        target_count=target_count(model),
        model_count=model_count(model),
        tensors=tensors,
    )


def _parts(rng: np.random.Generator, kind: str, shape: tuple[int, ...], size: float) -> tuple[Part, ...]:
    if kind == "factor":
        return (factor_part(rng, shape, [(4, 8)], 2 * size),)
    planes = 2 if kind == "planes" else 1
    return tuple(sign_part(rng, shape, "rowcol", size / planes) for _ in range(planes))


class Shaken:
    """A model whose logits are moved by as much as rounding can, for each row anew.

    One row is multiplied in another order than many are. That moves a logit by less than
    SHAKEN_BY, and where two tokens are as near to each other as that, either of them is right, and so is whatever follows.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *args: Any, **more: Any) -> mx.array:
        logits: mx.array = self._model(*args, **more)
        return logits + mx.random.uniform(-SHAKEN_BY, SHAKEN_BY, logits.shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def cases_of(manager: ZenPersonalizationManager, report: Callable[[str], None]) -> list[Case]:
    """Every profile and the base with every prompt, greedy and with a seed, each answered alone.

    Left out is what one of SHAKES shaken answers differs from.
    """
    cases, ties = [], 0
    for profile in (None, *manager.store.names()):
        report(f"the answers of {profile or 'the base'} alone")
        with manager.using(profile) as model:
            asked = [
                (prompt, sampling)
                for number, prompt in enumerate(PROMPTS)
                for sampling in ({"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9, "seed": number})
            ]
            requests = [_request(manager, *each) for each in asked]
            found = [answers(model, manager.tokenizer, [each]) for each in requests]
            shaken = answers(cast(Any, Shaken(model)), manager.tokenizer, requests * SHAKES)
        for number, (prompt, sampling) in enumerate(asked):
            (alone,) = found[number]
            if set(shaken[number :: len(asked)]) == {alone}:
                cases.append(Case(profile, prompt, sampling, *alone))
            else:
                ties += 1
    report(f"{len(cases)} questions; {ties} left out, whose answers hang on a near tie")
    return cases


def _request(manager: ZenPersonalizationManager, prompt: str, sampling: dict[str, Any]) -> Request:
    ids = render(manager.tokenizer, [{"role": "user", "content": prompt}])
    return Request(ids, sampling=Sampling(**{"seed": 0, **sampling, "max_tokens": TOKENS}))
