"""Profiles on disk: names stay inside the folder, every change is whole or did not happen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from zen_mlx.codec.parts import DensePart, decode_all, encode_sign
from zen_mlx.errors import FormatError, InputError, NameInvalidError, ProfileExistsError, ProfileNotFoundError, ZenError
from zen_mlx.format.read import read
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.profiles.store import ProfileStore

NAME = "layers.0.q_proj.weight"


def profile(seed: int = 0, name: str = "made") -> Profile:
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=(8, 40)).astype(np.float32)
    return Profile(
        info={
            "name": name,
            "created": "2026-01-01T00:00:00Z",
            "tool": "test",
            "method": "sign",
            "license": "not stated",
        },
        base={
            "model": "tiny",
            "architecture": "llama",
            "weights": "ab" * 32,
            "tokenizer": "cd" * 32,
            "quantization": None,
            "verified": True,
        },
        metrics={},
        target_count=320,
        model_count=1000,
        tensors={
            NAME: DeltaTensor((8, 40), tuple(encode_sign(delta))),
            "norm.weight": DeltaTensor((40,), (DensePart(delta[0]),)),
        },
    )


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "home")


def files(store: ProfileStore) -> dict[str, str]:
    return {
        str(path.relative_to(store.home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.home.rglob("*")
        if path.is_file()
    }


def test_save_load_list_remove(store: ProfileStore) -> None:
    assert store.names() == []
    assert store.headers() == []
    path = store.save("tech", profile())
    store.save("Art.v2_x-1", profile(1))
    assert path == store.home / "profiles" / "tech.bitdelta"
    assert store.names() == ["Art.v2_x-1", "tech"]
    assert store.exists("tech")
    assert not store.exists("other")
    loaded = store.load("tech")
    assert loaded.info["name"] == "tech"
    wanted = profile().tensors[NAME]
    np.testing.assert_array_equal(decode_all(loaded.tensors[NAME].parts, (8, 40)), decode_all(wanted.parts, (8, 40)))
    assert store.header("tech").sha256 == loaded.sha256
    store.remove("tech")
    assert store.names() == ["Art.v2_x-1"]


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", ".hidden", "-x", "a b", "a\0", "a\n", "é", "x" * 65,
        "x.", "x.bitdelta", "base", "BASE", "none", "con", "nul", "~", "%2e%2e",
    ],
)  # fmt: skip
def test_names_that_are_refused_everywhere(store: ProfileStore, tmp_path: Path, name: str) -> None:
    store.save("ok", profile())
    before = files(store)
    for act in (
        lambda: store.save(name, profile()),
        lambda: store.path(name),
        lambda: store.exists(name),
        lambda: store.remove(name),
        lambda: store.rename("ok", name),
        lambda: store.rename(name, "fine"),
        lambda: store.export(name, tmp_path / "out.bitdelta"),
    ):
        with pytest.raises(NameInvalidError) as caught:
            act()
        assert caught.value.exit_code == 2
    assert files(store) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["home"]


def test_a_name_inside_a_file_cannot_leave_the_folder(store: ProfileStore, tmp_path: Path) -> None:
    from zen_mlx.format.write import write

    for number, name in enumerate(("../../evil", "base", "/abs")):
        file = tmp_path / f"given{number}.bitdelta"
        write(profile(name=name), file)
        with pytest.raises(NameInvalidError):
            store.import_file(file)
        assert store.import_file(file, name=f"safe{number}") == f"safe{number}"
    assert store.names() == ["safe0", "safe1", "safe2"]


def test_an_unknown_name_says_which_there_are(store: ProfileStore) -> None:
    with pytest.raises(ProfileNotFoundError) as caught:
        store.path("x")
    assert "none yet" in str(caught.value.hint)
    store.save("technical", profile())
    with pytest.raises(ProfileNotFoundError) as caught:
        store.load("tecnical")
    assert "technical" in str(caught.value.hint)
    with pytest.raises(ProfileNotFoundError) as caught:
        store.remove("zzz")
    assert "technical" in str(caught.value.hint)


def test_a_taken_name_needs_replace(store: ProfileStore) -> None:
    store.save("a", profile(0))
    before = files(store)
    with pytest.raises(ProfileExistsError):
        store.save("a", profile(1))
    assert files(store) == before
    store.save("a", profile(1), replace=True)
    assert files(store) != before
    assert store.names() == ["a"]


def test_rename_writes_the_name_inside(store: ProfileStore) -> None:
    store.save("a", profile(0))
    store.save("b", profile(1))
    with pytest.raises(ProfileExistsError):
        store.rename("a", "b")
    with pytest.raises(InputError, match="already"):
        store.rename("a", "a")
    with pytest.raises(ProfileNotFoundError):
        store.rename("zzz", "c")
    store.rename("a", "c")
    assert store.names() == ["b", "c"]
    assert store.load("c").info["name"] == "c"
    store.rename("c", "b", replace=True)
    assert store.names() == ["b"]
    first = profile(0).tensors[NAME].parts[0]
    np.testing.assert_array_equal(store.load("b").tensors[NAME].parts[0].bits, first.bits)


def test_a_damaged_file_is_listed_with_its_error(store: ProfileStore) -> None:
    good = store.save("good", profile())
    folder = good.parent
    (folder / "cut.bitdelta").write_bytes(good.read_bytes()[:-7])
    (folder / "junk.bitdelta").write_bytes(b"hello")
    (folder / "bad name.bitdelta").write_bytes(b"")
    (folder / ".good.bitdelta.1234.tmp").write_bytes(b"left over")
    (folder / "dir.bitdelta").mkdir()
    listed = dict(store.headers())
    assert set(listed) == {"good", "cut", "junk", "bad name", "dir"}
    assert not isinstance(listed["good"], ZenError)
    assert isinstance(listed["cut"], FormatError)
    assert isinstance(listed["junk"], FormatError)
    assert isinstance(listed["bad name"], NameInvalidError)
    assert isinstance(listed["dir"], ProfileNotFoundError)
    store.remove("cut")
    assert not store.exists("cut")


def test_export_and_import_are_the_same_bytes(store: ProfileStore, tmp_path: Path) -> None:
    path = store.save("a", profile())
    out = tmp_path / "out"
    out.mkdir()
    assert store.export("a", out) == []
    file = out / "a.bitdelta"
    assert file.read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="already exists"):
        store.export("a", file)
    store.export("a", file, replace=True)
    other = ProfileStore(tmp_path / "other")
    assert other.import_file(file) == "a"
    assert other.path("a").read_bytes() == file.read_bytes()
    with pytest.raises(ProfileExistsError):
        other.import_file(file)
    assert other.import_file(file, name="b") == "b"
    with pytest.raises(FormatError):
        other.import_file(_cut(file))
    assert other.names() == ["a", "b"]


def test_version_1_out_and_in(store: ProfileStore, tmp_path: Path) -> None:
    store.save("a", profile())
    lost = store.export("a", tmp_path / "old.bitdelta", version=1)
    assert lost
    assert all(isinstance(line, str) and line for line in lost)
    name = store.import_file(tmp_path / "old.bitdelta", name="back")
    back = store.load(name)
    assert back.base["verified"] is False
    assert read(store.path(name)).version == 2
    assert set(back.tensors) >= {NAME}


def _cut(file: Path) -> Path:
    cut = file.with_name("cut.bitdelta")
    cut.write_bytes(file.read_bytes()[:-1])
    return cut
