"""What lies on people's disks is read: files of a ZEN_HOME as they were written when `runs/` was recorded, and examples/.

The recorded runs read the kept config.toml: it says where their bases are.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from golden.recorded import HOME, RUNS, Terminal, make_room, zen

import zen_mlx

KEPT = RUNS / "home"
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.bitdelta"))


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return make_room(tmp_path)


def shown(room: Path) -> dict[str, str]:
    """The digests that `zen models show` tells of the base."""
    done = zen(room, "models", "show", "few", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["fingerprint"]


def test_digests_json_is_read_and_written_as_it_was(room: Path) -> None:
    text, path = (KEPT / "digests.json").read_text().replace(HOME, str(room)), room / "zen" / "digests.json"
    digests = json.loads(text)[str(room / "few")]
    assert shown(room) == {"weights": digests["weights"], "tokenizer": digests["tokenizer"]}
    assert path.read_text() == text
    path.write_text(text.replace(digests["weights"], "ab" * 32))  # tells what is looked up from what is hashed anew
    assert shown(room)["weights"] == "ab" * 32


def test_a_saved_chat_is_read_and_written_as_it_was(room: Path) -> None:
    saved = (KEPT / "chat.json").read_text()
    (room / "saved.json").write_text(saved)
    said = "/load saved.json\n/save same.json\n6 squared?\n/save longer.json\n"
    done = zen(room, "chat", "-m", "few", "--temp", "0", "--max-tokens", "4", stdin=said)
    assert done.returncode == 0, done.stderr
    assert (room / "same.json").read_text() == saved
    turns, more = (json.loads((room / name).read_text())["messages"] for name in ("saved.json", "longer.json"))
    assert more[: len(turns)] == turns
    assert [turn["role"] for turn in more[len(turns) :]] == ["user", "assistant"]
    assert more[len(turns)] == {"role": "user", "content": "6 squared?"}


def test_the_chat_history_is_read_and_goes_on(room: Path) -> None:
    kept = (KEPT / "history").read_text()
    assert kept.endswith("+/save chat.json\n")
    path = room / "zen" / "history"
    path.write_text(kept)
    with Terminal(room, "chat", "-m", "few") as terminal:
        terminal.expect("few>")
        terminal.send("\x1b[A\x1b[A\x1b[B\r")  # up, up and down: the last line
        end = time.monotonic() + 30
        while not (room / "chat.json").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        terminal.leave()
    assert path.read_text() == kept  # a line that is typed twice in a row is kept once


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_profile_of_the_examples_is_whole(file: Path) -> None:
    profile = zen_mlx.load_profile(file)
    assert profile.info["name"] == file.stem
    assert profile.base["verified"] is True
    assert profile.tensors


def test_a_profile_of_the_examples_lies_on_its_base(with_embedded_base: Path) -> None:
    import mlx.core as mx

    manager = zen_mlx.ZenPersonalizationManager("smollm2-135m")
    ids = mx.array([manager.tokenizer.encode("Love is")])
    before = np.array(manager.model(ids))
    name = manager.import_profile(next(file for file in EXAMPLES if file.stem == "cynic"))
    with manager.using(name) as model:
        moved = np.abs(np.array(model(ids)) - before).max()
    assert 0.1 < moved < 100
    assert np.array_equal(np.array(manager.model(ids)), before)


def test_there_are_examples() -> None:
    assert {file.stem for file in EXAMPLES} >= {"code", "cynic", "hacker", "talk"}
