"""zen data preview, and what zen train takes: through the command line, on real files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from export_files import folder_of, jsonl

from zen_mlx.cli.main import main

CHAT = (
    "31/12/2023, 22:59 - Anna: call me on +49 171 2345678\n31/12/2023, 23:00 - Kim: ok, pw: hunter2\x1b[31m\n"
    "31/12/2023, 23:01 - Anna: <Media omitted>\n"
)


def preview(*args: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["data", "preview", *map(str, args)])
    out = capsys.readouterr()
    return code, out.out, out.err


def some_data(root: Path) -> Path:
    folder_of(root, {"chat.txt": CHAT, "note.md": "note " * 100})
    jsonl(root / "rows.jsonl", {"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}, {"canary": 1})
    return root


def test_preview_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = some_data(tmp_path / "d")
    code, out, _ = preview(root, "--me", "kim", "--json", "--limit", 2, capsys=capsys)
    shown = json.loads(out)
    assert code == 0
    assert shown["files"] == [
        {"path": f"{root}/chat.txt", "kind": "WhatsApp", "formats": {"WhatsApp": 1}},
        {"path": f"{root}/note.md", "kind": "text", "formats": {"text": 1}},
        {"path": f"{root}/rows.jsonl", "kind": "rows", "formats": {"prompt/completion": 2}},
    ]
    assert (shown["examples"], shown["conversations"], shown["texts"]) == (3, 2, 1)
    assert (shown["turns"], shown["learned_turns"]) == (4, 2)
    assert (shown["train"], shown["held_out"]) == (3, 0)
    assert shown["scrubbed"] == {"password": 1, "phone number": 1}
    assert shown["duplicates"] == {"count": 1, "places": [f"{root}/rows.jsonl:2"]}
    assert shown["refused"] == [
        {"reason": "this row has no field that can be trained on", "count": 1, "places": [f"{root}/rows.jsonl:3"]}
    ]
    assert shown["skipped"][0]["places"] == [f"{root}/chat.txt:3"]
    assert [row["source"] for row in shown["preview"]] == [f"{root}/chat.txt:1", f"{root}/note.md"]
    assert shown["preview"][0]["messages"][0] == {"role": "user", "content": "call me on [phone number]"}
    assert len(shown["preview"][1]["text"]) == 160
    assert "hunter2" not in out


def test_preview_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = some_data(tmp_path / "d")
    code, out, err = preview(root, "--me", "Kim", "--keep-contacts", capsys=capsys)
    assert (code, err) == (0, "")
    for words in ("3 examples", "1 exact duplicate dropped", "1 x password", "rows.jsonl:3", "+49 171 2345678"):
        assert words in out
    assert "\x1b" not in out
    assert "hunter2" not in out


def test_preview_says_who_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = preview(some_data(tmp_path / "d"), capsys=capsys)
    assert (code, out) == (2, "")
    assert "Anna, Kim" in err
    assert "--me NAME" in err
    code, out, _ = preview(tmp_path / "d", "--me", "Zoe", "--json", capsys=capsys)
    assert (code, json.loads(out)["error"]["field"]) == (2, "me")


def test_preview_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\nq,a\n")
    code, out, _ = preview(path, "--columns", "prompt=question,completion=answer", "--json", capsys=capsys)
    assert (code, json.loads(out)["examples"]) == (0, 1)
    assert preview(path, "--columns", "nonsense", capsys=capsys)[0] == 2
    assert preview(path, capsys=capsys)[0] == 2


def test_preview_brings_no_model_code(tmp_path: Path) -> None:
    code = (
        "import sys; from zen_mlx.cli.main import main; assert main(sys.argv[1:]) == 0; "
        "heavy = {'mlx', 'mlx.core', 'mlx_lm', 'transformers'} & set(sys.modules); sys.exit(f'{heavy}' if heavy else 0)"
    )
    args = ["data", "preview", str(some_data(tmp_path / "d")), "--me", "Kim"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_preview_for_a_model_counts_what_its_template_refuses(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"prompt": "q", "completion": "a", "topic": "x"}\n{"system": "s", "prompt": "q", "completion": "a"}\n'
    )
    code, out, _ = preview(rows, "-m", str(folder), capsys=capsys)
    assert code == 0
    for words in ("1 to train on", "1 x the model's chat template takes no system message", "1 x topic"):
        assert words in out
    arguments = ["train", str(rows), "-m", str(folder), "--profile", "p", "--valid", "none", "--dry-run"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(out)
