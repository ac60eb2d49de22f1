"""The key file: what is accepted, what is refused with a way out, and that no error shows a key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from zen_mlx.errors import InputError
from zen_mlx.server.keys import create_keys, read_keys

FIRST, SECOND = "zen-" + "a" * 20, "zen-" + "b" * 20


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


def test_keys_their_profiles_and_comments(tmp_path: Path) -> None:
    keys = read_keys(key_file(tmp_path, f"# mine\n\n{FIRST}\n  {SECOND}  cynic,base \n#{FIRST}x\n"))
    assert len(keys) == 2
    first, second = keys.find(FIRST.encode()), keys.find(SECOND.encode())
    assert first is not None
    assert first.profiles is None
    assert second is not None
    assert second.profiles == {"cynic", "base"}
    for other in (b"", FIRST.encode()[:-1], FIRST.encode() + b"x", b"#" + FIRST.encode(), b"\xff\xfe"):
        assert keys.find(other) is None
    assert FIRST not in repr(vars(keys))


def test_a_new_file_holds_one_good_key_and_is_yours_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = create_keys(tmp_path / "deep" / "keys")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key = path.read_text().splitlines()[-1]
    assert len(key) > 40
    assert read_keys(path).find(key.encode()) is not None
    other = create_keys(tmp_path / "other")
    assert other.read_text() != path.read_text()


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = key_file(tmp_path, FIRST)
    with pytest.raises(InputError, match="already") as caught:
        create_keys(path)
    assert "secrets" in str(caught.value.hint)
    assert path.read_text() == FIRST


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o640, 0o644, 0o660, 0o602, 0o601, 0o777])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InputError, match="others may read or change") as caught:
        read_keys(key_file(tmp_path, FIRST, mode))
    assert caught.value.found == f"mode {mode:04o}"
    assert str(caught.value.hint).startswith("chmod 600 ")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_only_you_may_open_is_read(tmp_path: Path, mode: int) -> None:
    assert len(read_keys(key_file(tmp_path, FIRST, mode))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path, FIRST)
    os.chown(path, 12345, -1)
    with pytest.raises(InputError, match="another user"):
        read_keys(path)


def test_only_a_regular_file_will_do(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(key_file(tmp_path, FIRST))
    os.mkfifo(pipe, 0o600)
    for path, said in (
        (link, "is a link"),
        (pipe, "regular file"),
        (tmp_path, "regular file"),
        (tmp_path / "no", "no such"),
    ):
        with pytest.raises(InputError, match=said):
            read_keys(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("zen-short\n", "too short"),
        (f"{FIRST} cynic hacker\n", "is not KEY or KEY PROFILE"),
        (f"{FIRST} ../etc/passwd\n", "cannot exist"),
        (f"{FIRST} cynic,\n", "cannot exist"),
        (f"{FIRST}\n{FIRST} cynic\n", "twice"),
        ("zen-ééééééééééééééééé\n", "not ASCII"),
        ("a" * 2**20 + "\n\n", "too large"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_without_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_keys(key_file(tmp_path, text))
    shown = str(caught.value) + str(caught.value.hint) + str(caught.value.to_dict())
    assert FIRST not in shown
    assert "short\n" not in shown
    assert caught.value.exit_code == 2
