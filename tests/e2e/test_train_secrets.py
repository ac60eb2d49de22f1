"""What must not leave a run: keys, card numbers, and the words of the data. Every byte that it leaves is looked at."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np

SECRETS = {
    "key": "sk-ant-api03-Zq8vR2mK7pLw4XcT9bNf3HjY6dGs1AeUoQiVxWzMrB5tCkEy",
    "token": "ghp_Rk29xTqLm4VbZw8sYc3NfHj7dGp1AeUoQiXv",
    "card": "4539 1488 0343 6467",
    "digits": "4539148803436467",
    "phone": "+49 30 901820",
    "mail": "anselm.winterfeld@example.org",
}
CANARY = "the heron kept seventeen brass buttons under the mill"
ZEN = [sys.executable, "-m", "zen_mlx"]


def zen(*args: str, until: str | None = None) -> tuple[int, str]:
    """(exit code, all that was said); stopped by SIGINT at the first line that begins with `until`."""
    child = subprocess.Popen([*ZEN, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = ""
    if until is not None:
        for line in child.stderr:
            said += line
            if line.startswith(until):
                child.send_signal(signal.SIGINT)
                break
    out, err = child.communicate(timeout=300)
    return child.returncode, said + out + err


def leaks(data: bytes) -> list[str]:
    """Which of the planted things are in `data`, as text or as the ids of a tokenizer with one id a letter."""
    ids = np.frombuffer(CANARY.encode(), np.uint8)
    found = [name for name, secret in SECRETS.items() if secret.encode() in data or secret.encode("utf-16-le") in data]
    found += ["canary"] * (CANARY.encode() in data or CANARY[4:20].encode() in data)
    return found + ["ids"] * any(ids.astype(kind).tobytes() in data for kind in (np.int32, np.int64, np.uint16))


def check(home: Path, said: str) -> None:
    assert leaks(said.encode()) == []
    for path in home.rglob("*"):
        assert leaks(os.fspath(path.relative_to(home)).encode()) == []
        if path.is_file():
            found = leaks(path.read_bytes())
            assert found == [], path


def test_a_run_leaves_none_of_its_data(tiny_model: Path, tmp_path: Path) -> None:
    home = Path(os.environ["ZEN_HOME"])
    with (tmp_path / "mails.jsonl").open("w") as file:
        for name, secret in SECRETS.items():
            for side in ("my", "your"):
                row = {"prompt": f"What was {side} {name} again?", "completion": f"The {name} is {secret}, keep it."}
                file.write(json.dumps(row) + "\n")
    (tmp_path / "diary.md").write_text(f"A quiet day.\n\nToday {CANARY}.\n")
    (tmp_path / "valid.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"{n}? {SECRETS['key']}", "completion": SECRETS["mail"]}) + "\n" for n in range(3)
        )
    )
    data = [
        "train",
        str(tmp_path / "mails.jsonl"),
        str(tmp_path / "diary.md"),
        "--valid",
        str(tmp_path / "valid.jsonl"),
    ]
    args = [
        *data,
        "--profile",
        "p",
        "-m",
        str(tiny_model),
        "--steps",
        "300",
        "--batch-size",
        "2",
        "--eval-every",
        "100",
    ]
    code, said = zen(*args, until="step ")
    assert code == 130, said
    folder = home / "runs" / "p"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert any(path.name.startswith("state-") for path in folder.iterdir())
    check(home, said)

    code, said = zen(*args, "--resume", "--seed", "1")
    assert code == 2
    assert "options.seed" in said
    check(home, said)

    code, said = zen(*args, "--resume")
    assert code == 0, said
    assert "scrubbed" in said
    assert not folder.exists()
    assert {path.relative_to(home).as_posix() for path in home.rglob("p.*") if path.is_file()} == {
        "profiles/p.bitdelta",
        "logs/p.jsonl",
        "logs/p.png",
        "reports/p.md",
    }
    check(home, said)

    code, said = zen(*args, "--replace", "--learning-rate-scale", "1e38")
    assert code == 2
    assert "--delta-regularization" in said
    check(home, said)
    exported = tmp_path / "out.bitdelta"
    assert zen("profile", "export", "p", str(exported))[0] == 0
    assert leaks(exported.read_bytes()) == []
    assert b"What was" not in exported.read_bytes()
