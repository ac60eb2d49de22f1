"""A ZEN_HOME with a small base that knows tools and a profile of every kind; `zen serve` over it, a process of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from few_layer_qwen3 import VOCABULARY, save_tiny_qwen3
from server_process import Server, running

from tests.unit.adapter.test_resident_set import profile_of
from zen_mlx import ZenPersonalizationManager
from zen_mlx.codec.factor_encode import encode_svd
from zen_mlx.codec.parts import RowsPart
from zen_mlx.config import Sampling
from zen_mlx.engine.decoding import answers, render
from zen_mlx.engine.request import Request
from zen_mlx.format.spec import DeltaTensor, Profile

KINDS = {"one": "sign", "two": "sign", "three": "planes", "four": "factor", "five": "all"}
KEY, GUEST = "zen-" + "k" * 20, "zen-" + "g" * 20
_HIDDEN = 64


@dataclass
class Home:
    """folder: ZEN_HOME. base: the folder of the base `tiny`. manager: over both, in this process."""

    folder: Path
    base: Path
    manager: ZenPersonalizationManager

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that uses this home."""
        return {**os.environ, "ZEN_HOME": str(self.folder), "HF_HUB_OFFLINE": "1"}

    @property
    def keys(self) -> Path:
        """The file with KEY, and GUEST for profile `one` only."""
        return self.folder / "keys"

    def save(self, name: str, kind: str, seed: int) -> None:
        """Put a profile where the server finds it, in place of one of that name."""
        self.manager.store.save(name, made(self.manager.base.model, kind, seed), replace=True)

    def alone(
        self, messages: str | Sequence[dict[str, Any]], profile: str | None, stop: Sequence[str] = (), **sampling: Any
    ) -> tuple[str, str]:
        """(text, finish reason) of the answer that nothing runs beside, with the profile attached."""
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        request = Request(
            render(self.manager.tokenizer, turns), None, Sampling(**{"seed": 0} | sampling), stop=tuple(stop)
        )
        with self.manager.using(profile) as model:
            return answers(model, self.manager.tokenizer, [request])[0]


def made(model: Any, kind: str, seed: int) -> Profile:
    """A random profile; `factor` is strong enough to be heard, `all` has three words more than the base, two its own."""
    profile = profile_of(model, kind, seed)
    rng = np.random.default_rng(seed)
    if kind == "factor":
        for name, tensor in profile.tensors.items():
            delta = (rng.standard_normal(tensor.shape) * 0.2).astype(np.float32)
            profile.tensors[name] = DeltaTensor(tensor.shape, (encode_svd(delta, ((4, 4),)),))
    if kind == "all":
        rows = np.array([65, 97, VOCABULARY + 1, VOCABULARY + 2], "<u4")
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            values = rng.standard_normal((len(rows), _HIDDEN)).astype("<f2")
            profile.tensors[name] = DeltaTensor((VOCABULARY + 3, _HIDDEN), (RowsPart(rows, values),))
    return profile


def make_home(folder: Path) -> Home:
    """A new home in `folder`, with the profiles of KINDS."""
    home = folder / "zen"
    home.mkdir(parents=True)
    base = save_tiny_qwen3(folder / "tiny-qwen3")
    (home / "config.toml").write_text(f'[models]\ntiny = "{base}"\n')
    (home / "keys").write_text(f"{KEY}\n{GUEST} one\n")
    (home / "keys").chmod(0o600)
    made = Home(home, base, ZenPersonalizationManager(str(base), home=home))
    for seed, (name, kind) in enumerate(KINDS.items()):
        made.save(name, kind, seed)
    return made


@contextlib.contextmanager
def serving(home: Home, *options: str) -> Iterator[Server]:
    """`zen serve` on a free port."""
    command = [sys.executable, "-m", "zen_mlx", "serve", "-m", "tiny", "--port", "0", *options]
    with running(command=command, environment=home.environment) as server:
        yield server
