"""Training tokenizes each row once, for the memory estimate and for the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zen_mlx import ZenPersonalizationManager
from zen_mlx.data import tokens
from zen_mlx.data.example import Example

TEXTS = [f"the cache holds {count} lines" for count in range(4)]
HELD = [{"prompt": "rhyme", "completion": "time"}]


def test_each_row_is_tokenized_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Example] = []

    def counted(cut: Any) -> Any:
        def call(example: Example, *rest: Any) -> Any:
            seen.append(example)
            return cut(example, *rest)

        return call

    for name in ("_text", "_conversation"):
        monkeypatch.setattr(tokens, name, counted(getattr(tokens, name)))
    manager = ZenPersonalizationManager(str(tiny_model))
    manager.create_profile("p", TEXTS, valid=HELD, steps=1)
    assert sorted(example.text or "" for example in seen) == ["", *TEXTS]
    seen.clear()
    manager.plan_profile(TEXTS, valid=HELD, steps=1)
    assert len(seen) == len(TEXTS) + len(HELD)
