"""Runs the commands on a small base and keeps the keys of what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from tests.hub_server import serve
from zen_mlx.errors import ZenError

from . import files, have_tasks
from .command_line import Commands, run
from .names import error_classes

ROWS = "".join(f'{{"prompt": "say {n}", "completion": "it is {n}"}}\n' for n in range(8))
MIXED = ROWS + ROWS + '{"messages": [{"role": "user", "content": "hi"}]}\n{"text": "write to kim@example.org"}\n'
CHAT = '{"messages": [%s]}\n' % ", ".join(  # noqa: UP031  braces are all over it
    f'{{"role": "{role}", "content": "so {n}"}}' for n in range(5) for role in ("user", "assistant")
)
TASK = """task: facts
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_target: 0
doc_to_choice: ["it is", "it was"]
metric_list: [{metric: acc}]
"""


@dataclass
class Ran:
    """What was seen, as `face.json` has it."""

    documents: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    keywords: dict[str, Any] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    error_codes: dict[str, int] = field(default_factory=dict)
    chat_commands: list[str] = field(default_factory=list)


def run_all(tiny: Path, scratch: Path) -> Ran:
    """Run everything with its state in `scratch`."""
    own = {"ZEN_HOME": str(scratch / "home"), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    ran, commands = Ran(), Commands()
    with patch.dict(os.environ, own):
        (scratch / "rows.jsonl").write_text(ROWS)
        (scratch / "mixed.jsonl").write_text(MIXED)
        (scratch / "chat.jsonl").write_text(CHAT)
        tuned = _tuned(tiny, scratch / "tuned")
        _machine(commands)
        _models(commands, tiny, scratch)
        _runs(commands, tiny, tuned, scratch)
        _profiles(commands, tiny, scratch)
        _hub(commands, scratch)
        ran.files, ran.keywords = files.of_runs(tiny, tuned, scratch)
        ran.files |= files.of_chats(tiny, scratch)
        ran.chat_commands = files.chat_commands(tiny)
        _errors(ran, commands)
    ran.documents = commands.types()
    return ran


def _tuned(tiny: Path, folder: Path) -> Path:
    """The base with the matrices of its layers, and two rows of its embedding, moved a little."""
    import mlx.core as mx

    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = mx.load(str(tiny / "model.safetensors"))
    key = mx.random.key(1)
    for name, value in weights.items():
        if value.ndim == 2:
            step = (0.01 * mx.random.normal(value.shape, key=key)).astype(value.dtype)
            changed = 2 if "embed" in name else 0 if "lm_head" in name else len(value)
            weights[name] = value + mx.where(mx.arange(len(value))[:, None] < changed, step, 0)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def _machine(commands: Commands) -> None:
    commands.zen("doctor")
    commands.zen("bench kernels", "--quick", "--shape", "64+32x96", "--rows", 1)


def _models(commands: Commands, tiny: Path, scratch: Path) -> None:
    commands.zen("models list")
    commands.zen("models pull", tiny)
    commands.zen("models show", tiny)
    made = commands.zen("models quantize", tiny, "--bits", 4, "--group-size", 32)
    commands.zen("models show", made["path"])


def _runs(commands: Commands, tiny: Path, tuned: Path, scratch: Path) -> None:
    zen, rows, base = commands.zen, scratch / "rows.jsonl", ("-m", tiny)
    zen("data preview", scratch, "--limit", 20)
    train = (rows, *base, "--steps", 2, "--valid", rows)
    zen("train", *train, "--profile", "one")
    zen("train", *train, "--profile", "low", "--method", "factor", "--bits-per-weight", 1.5)
    zen("train", rows, *base, "--steps", 2, "--profile", "two", "--valid", "none", "--no-report")
    zen("train", *train, "--profile", "no", "--dry-run", under="zen train --dry-run")
    zen("train", *train, "--profile", "one", code=2)
    small = ("--dry-run", "--memory-limit", "10MB")
    zen("train", *train, "--profile", "no", *small, under="zen train --dry-run")
    zen("compress", tuned, "--profile", "tuned", *base, "--valid", rows)
    zen("compress", tuned, "--profile", "blocks", *base, "--scale", "block")
    distilled = ("--bits-per-weight", 4, "--distill", rows, "--steps", 2, "--babble", 1)
    zen("compress", tuned, "--profile", "mixed", *base, *distilled)
    curve = ("--valid", rows, "--sweep", scratch / "curve.png")
    zen("compress", tuned, "--profile", "any", *base, *curve, under="zen compress --sweep")
    zen("generate", "hi", *base, "--max-tokens", 2)
    zen("generate", "hi", *base, "--max-tokens", 2, "-p", "one", "--seed", 3)
    compared = ("-p", "tuned", "--reference", tuned, "--answers", 1, "--heatmap", scratch / "layers.png")
    zen("eval", rows, *base, "--limit", 2)
    if have_tasks():
        zen("eval", rows, *base, "--limit", 2, *compared)
        (scratch / "facts.yaml").write_text(TASK % rows)
        tasks = ("-p", "one", "--tasks", scratch / "facts.yaml")
        zen("eval", rows, *base, "--limit", 2, *tasks, under="zen eval --tasks")


def _two_patterns(config: Path) -> None:
    """Let two patterns of the adapter match every module, so that its import has a note."""
    patterns = {".*": 1, ".*proj": 2}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"alpha_pattern": patterns}))


def _profiles(commands: Commands, tiny: Path, scratch: Path) -> None:
    zen, base = commands.zen, ("-m", tiny)
    for name in ("one", "low", "tuned", "blocks", "mixed"):
        zen("profile show", name)
    for name in ("low", "blocks", "mixed"):
        zen("profile verify", name)
        zen("inspect", scratch / "home" / "profiles" / f"{name}.bitdelta")
    zen("profile diff", "one", "low")
    zen("profile merge", "one", "two", "--as", "both")
    zen("profile merge", "one", "two", "--as", "small", "--requantize")
    zen("profile export", "one", scratch / "one.bitdelta")
    zen("profile export", "one", scratch / "old.bitdelta", "--format", "v1")
    zen("profile export", "one", scratch / "lora", "--format", "mlx-lm", "--rank", 2, *base)
    zen("profile import", scratch / "one.bitdelta", "--as", "back")
    zen("profile import", scratch / "old.bitdelta", "--as", "old")
    zen("profile import", scratch / "lora", "--as", "lora", *base)
    zen("profile export", "one", scratch / "peft", "--format", "peft", "--rank", 2, *base)
    _two_patterns(scratch / "peft" / "adapter_config.json")
    zen("profile import", scratch / "peft", "--as", "peft", *base)
    zen("profile rename", "back", "again")
    zen("profile remove", "again", "--yes")
    (scratch / "home" / "profiles" / "damaged.bitdelta").write_bytes(b"BITDELTA")
    zen("profile list")


def _hub(commands: Commands, scratch: Path) -> None:
    """In processes of their own: huggingface_hub reads its settings once."""
    lines = (("push", "one", "acme/one", "--yes"), ("pull", "acme/one", "--as", "pulled"))
    with serve() as hub:
        own = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(scratch / "hf"),
            "HF_TOKEN": "hf_writer",
        }
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "NO_PROXY": "127.0.0.1,localhost"}
        for args in lines:
            command = [sys.executable, "-m", "zen_mlx", "profile", *args, "--json"]
            done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=True)
            commands.add(f"zen profile {args[0]}", json.loads(done.stdout))


def _errors(ran: Ran, commands: Commands) -> None:
    """Raise every error inside a command, and see what the command line makes of it."""
    for cls in error_classes():
        error = cls("said", path="file", field="name", expected="this", found="that", hint="so")
        ran.error_codes[cls.__name__] = _raised(commands, error)
    for value in (None, 1, True, [1], {}):
        _raised(commands, ZenError("said", expected=value, found=value))
    ran.exit_codes = {
        "done": run("profile", "list")[0],
        "UsageError": _told(commands, *run("train", "--json"), "UsageError"),
        "Interrupted": _raised(commands, KeyboardInterrupt(), "Interrupted"),
        "unexpected": _raised(commands, RuntimeError("said")),
    }


def _raised(commands: Commands, error: BaseException, type_name: str = "") -> int:
    """The exit code of a command that `error` ends."""

    def read() -> bytes:
        raise error

    stdin = SimpleNamespace(buffer=SimpleNamespace(read=read), isatty=lambda: False)
    return _told(commands, *run("generate", "-", "--json", stdin=stdin), type_name or type(error).__name__)


def _told(commands: Commands, code: int, text: str, type_name: str) -> int:
    assert commands.add("error", json.loads(text))["error"]["type"] == type_name
    return code
