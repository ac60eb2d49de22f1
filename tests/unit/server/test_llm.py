"""The command line `llm`, unmodified, as another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from canned_backend import fits
from served import Live

MODEL = """
- model_id: zen
  model_name: tiny@cynic
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
"""


@pytest.fixture
def llm(live: Live, tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "extra-openai-models.yaml").write_text(MODEL.format(url=live.url))

    def run(*arguments: str, typed: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=os.environ | {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "", "PYTHONPATH": ""},
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_prompt_and_a_schema(live: Live, llm: Callable[..., str]) -> None:
    assert llm("-m", "zen", "hi", "-s", "be brief").strip() == "Hello there."
    assert (live.backend.asked[0].profile, live.backend.prompt().count("be brief")) == ("cynic", 1)
    live.backend.says = '{"name": "Ann"}'
    assert llm("-m", "zen", "who?", "--schema", "name, age int").strip() == '{"name": "Ann"}'
    assert fits(live.backend.asked[-1], live.backend.tokenizer, '{"name":"Ann","age":2}')


def test_a_conversation(live: Live, llm: Callable[..., str]) -> None:
    assert llm("chat", "-m", "zen", typed="one\ntwo\nquit\n").count("Hello there.") == 2
    shown = live.backend.prompt()
    assert shown.index("one") < shown.index("Hello there.") < shown.index("two")
