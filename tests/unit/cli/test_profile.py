"""zen profile and zen inspect on real files, in process and without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zen_mlx import errors
from zen_mlx.cli.inspect import _kind
from zen_mlx.cli.main import main
from zen_mlx.codec.factor_encode import encode_svd
from zen_mlx.codec.parts import DensePart, encode_rows, encode_sign
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write
from zen_mlx.paths import zen_home
from zen_mlx.profiles.store import ProfileStore

LIST_KEYS = {"name", "base", "method", "bits_per_weight", "file_bytes", "created", "sha256", "verified"}


def _make(name: str, seed: int = 0) -> Profile:
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        delta = random.standard_normal((8, 40), np.float32)
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = DeltaTensor((8, 40), tuple(encode_sign(delta)))
    norm = random.standard_normal(8).astype(np.float16)
    tensors["model.norm.weight"] = DeltaTensor((8,), (DensePart(norm),))
    info = {"name": name, "created": "2026-01-02T03:04:05Z", "tool": "test", "method": "sign", "license": "none"}
    base = {"model": "smollm2-135m", "weights": "ab" * 32, "tokenizer": "cd" * 32, "verified": True}
    return Profile(info=info, base=base, metrics={"seed": seed}, target_count=640, model_count=1000, tensors=tensors)


@pytest.fixture
def store() -> ProfileStore:
    store = ProfileStore(zen_home())
    store.save("one", _make("one"))
    store.save("two", _make("two", 1))
    return store


def _json(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> object:
    assert main([*args, "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_list_is_empty_without_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, "profile", "list") == []
    assert main(["profile", "list"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "zen train" in err


def test_list_has_the_promised_keys_and_keeps_a_damaged_file_visible(
    store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.path("two").write_bytes(b"BITDELTA")
    rows = _json(capsys, "profile", "list")
    assert [row["name"] for row in rows] == ["one", "two"]
    assert set(rows[0]) == LIST_KEYS
    assert rows[0]["base"] == "smollm2-135m"
    assert rows[0]["file_bytes"] == store.path("one").stat().st_size
    assert rows[0]["verified"] is True
    assert set(rows[1]) == LIST_KEYS | {"error"}
    assert main(["profile", "list"]) == 0
    assert "damaged" in capsys.readouterr().out


def test_show_and_verify(store: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    shown = _json(capsys, "profile", "show", "one")
    assert shown["profile"]["name"] == "one"
    assert shown["sha256"] == store.header("one").sha256
    assert _json(capsys, "profile", "verify", "one")["verified"] is True
    content = bytearray(store.path("one").read_bytes())
    content[-70] ^= 1
    store.path("one").write_bytes(content)
    assert _json(capsys, "profile", "verify", "one", code=2)["error"]["type"] == "FormatError"


def test_verify_says_what_an_older_profile_is_not_compared_by(
    store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "verify", "one"]) == 0
    assert "base's function   not recorded: not compared" in capsys.readouterr().out


def test_inspect_groups_tensors_and_needs_no_base(store: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(store.path("one"))
    assert main(["inspect", path]) == 0
    out = capsys.readouterr().out
    assert "model.layers.*.mlp.up_proj.weight" in out
    assert "3 tensors, every byte verified" in out
    found = _json(capsys, "inspect", path)
    assert found["verified"] is True
    assert found["tensors"][-1] == {
        "name": "model.norm.weight",
        "shape": [8],
        "parts": [{"kind": "dense", "dtype": "f16"}],
        "bytes": 16,
    }


def test_inspect_of_factors_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile, delta = _make("factors"), np.random.default_rng(0).standard_normal((12, 40), np.float32)
    factors = encode_svd(delta, [[4, 2], [1, 3]]), encode_svd(delta, [[16, 2]], u=np.ones(12), v=np.ones(40))
    profile.tensors = {
        "model.embed_tokens.weight": DeltaTensor((12, 40), (encode_rows(delta),)),
        "model.layers.0.weight": DeltaTensor((12, 40), (factors[0], *encode_sign(delta, "row"))),
        "model.layers.1.weight": DeltaTensor((12, 40), (factors[1],)),
    }
    file = tmp_path / "x.bitdelta"
    write(profile, file)
    found = _json(capsys, "inspect", str(file))["tensors"]
    assert found[0]["parts"] == [{"kind": "rows", "dtype": "f16", "rows": 12}]
    assert found[1]["parts"][0] == {
        "kind": "factor",
        "u": False,
        "v": False,
        "dtype": "f16",
        "groups": [[4, 2], [1, 3]],
    }
    assert main(["inspect", str(file)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "12 rows f16" in out
    for entry, wanted in (
        (found[1]["parts"][0], "factor, rank 2 at 4 bits, 3 at 1"),
        (found[2]["parts"][0], "factor, rank 2 at 16 bits, u and v f16"),
        ({"kind": "rows", "dtype": "f32", "rows": 1}, "1 row f32"),
    ):
        assert _kind(entry) == wanted


def test_inspect_of_something_else_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.bitdelta"
    file.write_bytes(b"not a profile at all" * 10)
    error = _json(capsys, "inspect", str(file), code=2)["error"]
    assert error["path"] == str(file)


def test_rename_and_a_taken_name(store: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, "profile", "rename", "one", "two", code=2)["error"]["type"] == "ProfileExistsError"
    assert store.names() == ["one", "two"]
    assert _json(capsys, "profile", "rename", "one", "three")["profile"] == "three"
    assert store.names() == ["three", "two"]
    assert _json(capsys, "profile", "rename", "three", "two", "--replace")["profile"] == "two"
    assert store.names() == ["two"]


def test_remove_asks_unless_told(store: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--yes" in _json(capsys, "profile", "remove", "one", code=2)["error"]["hint"]
    assert store.exists("one")
    assert _json(capsys, "profile", "remove", "one", "--yes") == {"removed": "one"}
    assert not store.exists("one")


def test_diff_with_itself_is_one(store: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, "profile", "diff", "one", "one")["total"]["cosine"] == pytest.approx(1)
    assert main(["profile", "diff", "one", "two"]) == 0
    assert "cosine" in capsys.readouterr().out


def test_merge_exact_and_requantized(store: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    exact = _json(capsys, "profile", "merge", "one", "two", "--weights", "0.7,-0.3", "--as", "both")
    assert exact["merged_weights"] == [0.7, -0.3]
    assert exact["merge_error"] is None
    small = _json(capsys, "profile", "merge", "one", "two", "--as", "small", "--requantize")
    assert 0 < small["merge_error"] < 1
    assert small["file_bytes"] < exact["file_bytes"]
    taken = _json(capsys, "profile", "merge", "one", "two", "--as", "both", code=2)
    assert taken["error"]["type"] == "ProfileExistsError"


def test_export_import_round_trip(store: ProfileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.bitdelta"
    assert _json(capsys, "profile", "export", "one", str(file))["lost"] == []
    assert _json(capsys, "profile", "export", "one", str(file), code=2)["error"]["path"] == str(file)
    assert _json(capsys, "profile", "import", str(file), code=2)["error"]["type"] == "ProfileExistsError"
    assert _json(capsys, "profile", "import", str(file), "--as", "copy")["verified"] is True
    assert store.load("copy").tensors.keys() == store.load("one").tensors.keys()


def test_version_1_says_what_it_lost(store: ProfileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.bitdelta"
    assert main(["profile", "export", "one", str(file), "--format", "v1"]) == 0
    assert "note: " in capsys.readouterr().err
    assert main(["profile", "import", str(file), "--as", "old"]) == 0
    assert "shapes" in capsys.readouterr().err


def test_doctor_names_a_damaged_profile_and_fails(store: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.path("two").write_bytes(b"BITDELTA")
    report = _json(capsys, "doctor", code=1)
    assert report["store"]["damaged"] == ["two"]
    assert report["backend"]["self_test_error"] < 1e-4
    assert report["hub"]["state"] == "offline"
    store.remove("two")
    assert main(["doctor"]) == 0
    assert "Everything works." in capsys.readouterr().out


@pytest.mark.parametrize("options", [(), ("-m", "smollm2-135m")])
def test_a_file_is_looked_at_before_a_base_is_fetched(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "README.md"
    file.write_text(
        "# A project\n\nIts first lines are those of no profile, and there are more of them than a header has.\n"
    )
    document = _json(capsys, "profile", "import", str(file), *options, code=2)
    assert isinstance(document, dict)
    error = document["error"]
    assert issubclass(getattr(errors, error["type"]), errors.FormatError)
    assert (error["path"], error["expected"]) == (str(file), "a .bitdelta, safetensors or torch file")
    assert "# A proj" in error["found"]
    assert not (zen_home() / "bases").exists()


def test_models_list(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _json(capsys, "models", "list")
    assert {"smollm2-135m", "zen-nano", "zen-nano-4b", "zen-next", "zen-omni"} <= {row["name"] for row in rows}
    assert all(row["path"] is None for row in rows)
