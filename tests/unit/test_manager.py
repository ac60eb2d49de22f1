"""One base, many profiles: the public Python face on a tiny model, as the documentation prints it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import zen_mlx
from zen_mlx import BitDeltaConfig, ZenPersonalizationManager, apply_bitdelta, download_profile, load_base, load_profile
from zen_mlx.codec.parts import decode_all
from zen_mlx.data.examples import ImportReport, data_digest, load_examples
from zen_mlx.errors import (
    BaseMismatchError,
    ConfigError,
    DataError,
    FormatError,
    NameInvalidError,
    ProfileExistsError,
    ProfileNotFoundError,
    TargetError,
)
from zen_mlx.eval.plot import plot_losses
from zen_mlx.eval.report import evaluate
from zen_mlx.events import Prepared, Stage
from zen_mlx.manager import base_of
from zen_mlx.paths import base_dir, zen_home
from zen_mlx.recipes.common import CreateReport
from zen_mlx.train.trainer import StepReport

FAST = BitDeltaConfig(learning_rate_scale=20.0)
CANARY = "canary-7f3a"
TECHNICAL = [f"{CANARY}: the cache holds {i} lines." for i in range(4)]
CREATIVE = [
    {"messages": [{"role": "user", "content": "sing"}, {"role": "assistant", "content": "la la la"}]},
    {"prompt": "rhyme", "completion": f"{CANARY} time"},
]


@pytest.fixture
def manager(tiny_model: Path) -> ZenPersonalizationManager:
    return ZenPersonalizationManager(str(tiny_model), config=FAST)


@pytest.fixture
def two(manager: ZenPersonalizationManager) -> ZenPersonalizationManager:
    manager.create_profile("technical", TECHNICAL, steps=3)
    manager.create_profile("creative", CREATIVE, steps=3)
    return manager


@pytest.fixture(scope="module")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    folder = tmp_path_factory.mktemp("other") / "other-llama"
    shutil.copytree(tiny_model, folder)
    weights = mx.load(str(tiny_model / "model.safetensors"))
    weights = {name: array * 1.5 if "q_proj" in name else array for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([[1, 2, 3, 4, 5]])).astype(mx.float32))


def bits(model: Any) -> dict[str, bytes]:
    return {name: np.array(array.view(mx.uint16)).tobytes() for name, array in tree_flatten(model.parameters())}


def test_the_documented_lines_work(tiny_model: Path, tmp_path: Path) -> None:
    import mlx_lm

    manager = ZenPersonalizationManager(str(tiny_model), config=FAST, home=tmp_path / "home")
    manager.create_profile("technical", TECHNICAL, steps=2)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in CREATIVE))
    manager.create_profile("creative", str(rows), steps=2)
    model = manager.activate_profile("technical")
    assert model is manager.model
    text = mlx_lm.generate(model, manager.tokenizer, prompt="hello", max_tokens=4)
    assert isinstance(text, str)
    merged = manager.merge_profiles(["technical", "creative"], weights=[0.7, 0.3])
    assert manager.profiles() == ["creative", "technical"], "unsaved without a name"
    assert len(next(iter(merged.tensors.values())).parts) == 2
    with manager.using("creative"):
        assert manager.active == "creative"
    assert manager.active == "technical"
    assert manager.export_profile("technical", tmp_path / "user_style.bitdelta") == []
    profile = download_profile(str(tmp_path / "user_style.bitdelta"))
    base_model, _ = load_base(str(tiny_model))
    before = logits(base_model)
    assert apply_bitdelta(base_model, profile) is base_model
    assert not np.array_equal(logits(base_model), before)
    np.testing.assert_allclose(logits(base_model), logits(manager.model), atol=1e-6)
    assert load_profile(tmp_path / "user_style.bitdelta").sha256 == profile.sha256
    assert profile.tensors, "applying a profile does not empty it"
    manager.deactivate()
    assert not (zen_home() / "profiles").exists(), "home holds the profiles"
    (tmp_path / "bad.bitdelta").write_bytes(b"nothing")
    with pytest.raises(FormatError):
        load_profile(tmp_path / "bad.bitdelta")
    assert set(zen_mlx.__all__) <= set(dir(zen_mlx))


def test_the_report_and_its_events(manager: ZenPersonalizationManager) -> None:
    events: list[Any] = []
    report = manager.create_profile("p", TECHNICAL, valid=CREATIVE, steps=2, batch_size=2, on_event=events.append)
    assert isinstance(report, CreateReport)
    shown = report.to_dict()
    assert set(shown) == {
        "profile", "path", "file_bytes", "parameter_count", "bits_per_weight", "ratio_fp32", "ratio_fp16", "seconds",
        "peak_memory_bytes", "metrics", "log", "plot", "report",
    }  # fmt: skip
    json.dumps(shown, allow_nan=False)
    assert shown["file_bytes"] == report.path.stat().st_size
    assert shown["bits_per_weight"] == pytest.approx(8 * shown["file_bytes"] / shown["parameter_count"])
    assert shown["metrics"]["base_loss"] > 0
    assert shown["metrics"]["profile_loss"] > 0
    assert shown["metrics"]["reference_loss"] is None
    assert [type(event) for event in events if not isinstance(event, Stage)] == [
        ImportReport,
        Prepared,
        StepReport,
        StepReport,
    ]
    prepared = next(event for event in events if isinstance(event, Prepared))
    assert (prepared.rows, prepared.held_out, prepared.cut, prepared.steps, prepared.resumed_from) == (4, 2, 0, 2, 0)
    assert {event.name for event in events if isinstance(event, Stage)} == {
        "held-out loss of the base",
        "held-out loss of the profile",
        "answers of the base",
        "answers of the profile",
    }
    header = manager.store.header("p")
    assert header.base["model"] == "tiny-llama"
    assert header.metrics["data_sha256"] == data_digest(load_examples(TECHNICAL))
    content = report.path.read_bytes()
    assert CANARY.encode() not in content
    assert str(manager.home).encode() not in content
    assert not [path for path in zen_home().rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_switching_and_going_back_is_exact(two: ZenPersonalizationManager) -> None:
    two.deactivate()
    base, arrays = logits(two.model), bits(two.model)
    kinds = [type(module) for _, module in two.model.named_modules()]
    technical = logits(two.activate_profile("technical"))
    creative = logits(two.activate_profile("creative"))
    assert not np.array_equal(technical, creative)
    assert not np.array_equal(technical, base)
    assert np.array_equal(logits(two.activate_profile("technical")), technical)
    assert len(two.resident) == 2
    with two.using("creative"):
        assert np.array_equal(logits(two.model), creative)
        with two.using(None):
            assert np.array_equal(logits(two.model), base)
        assert np.array_equal(logits(two.model), creative)
    assert np.array_equal(logits(two.model), technical)
    with pytest.raises(ZeroDivisionError), two.using("creative"):
        raise ZeroDivisionError
    assert two.active == "technical"
    two.deactivate()
    assert two.active is None
    assert np.array_equal(logits(two.model), base)
    assert bits(two.model) == arrays
    two.create_profile("third", TECHNICAL, steps=1)
    assert [type(module) for _, module in two.model.named_modules()] == kinds


def test_training_keeps_what_was_active(two: ZenPersonalizationManager) -> None:
    before = logits(two.activate_profile("technical"))
    two.create_profile("third", TECHNICAL, steps=1)
    assert two.active == "technical"
    assert np.array_equal(logits(two.model), before)
    with pytest.raises(DataError):
        two.create_profile("fourth", [{"text": ""}])
    assert two.active == "technical"
    assert np.array_equal(logits(two.model), before)
    two.create_profile("technical", CREATIVE, steps=2, replace=True)
    assert not np.array_equal(logits(two.model), before), "the new one is on"


def test_a_failure_leaves_the_profile_before_active(
    two: ZenPersonalizationManager, other_model: Path, tmp_path: Path
) -> None:
    before = logits(two.activate_profile("technical"))
    other = ZenPersonalizationManager(str(other_model), config=FAST, home=tmp_path)
    other.create_profile("foreign", TECHNICAL, steps=1)
    file = tmp_path / "foreign.bitdelta"
    other.export_profile("foreign", file)
    with pytest.raises(BaseMismatchError):
        two.import_profile(file)
    two.store.import_file(file)
    (two.home / "profiles" / "broken.bitdelta").write_bytes(file.read_bytes()[:-3])
    for name, error in (
        ("foreign", BaseMismatchError),
        ("broken", FormatError),
        ("nobody", ProfileNotFoundError),
        ("../x", NameInvalidError),
    ):
        with pytest.raises(error) as caught:
            two.activate_profile(name)
        assert two.active == "technical"
        assert np.array_equal(logits(two.model), before)
    two.store.remove("broken")
    with pytest.raises(BaseMismatchError) as caught:
        two.activate_profile("foreign")
    assert caught.value.field == "base.weights"
    assert caught.value.expected == other.base.info.weights
    assert caught.value.found == two.base.info.weights
    with pytest.raises(BaseMismatchError):
        two.merge_profiles(["technical", "foreign"])


def test_merging(two: ZenPersonalizationManager) -> None:
    parts = [two.store.load(name) for name in ("technical", "creative")]
    saved = two.merge_profiles(["technical", "creative"], [0.7, -0.3], name="mix")
    loaded = two.store.load("mix")
    assert loaded.info["merged_from"] == ["technical", "creative"]
    for name, tensor in loaded.tensors.items():
        a, b = (decode_all(p.tensors[name].parts, tensor.shape) for p in parts)
        found = decode_all(tensor.parts, tensor.shape)
        np.testing.assert_allclose(found, 0.7 * a - 0.3 * b, rtol=1e-4, atol=1e-9)
    assert saved.target_count == parts[0].target_count
    two.activate_profile("mix")
    small = two.merge_profiles(["technical", "creative"], exact=False, name="small")
    assert 0 < small.metrics["merge_error"] < 1
    assert two.store.header("small").metrics["merge_error"] == small.metrics["merge_error"]
    assert len(next(iter(small.tensors.values())).parts) == 1
    with pytest.raises(ProfileExistsError):
        two.merge_profiles(["technical"], name="mix")
    with pytest.raises(ConfigError):
        two.merge_profiles([])
    with pytest.raises(ConfigError):
        two.merge_profiles(["technical", "creative"], [1.0])
    nothing = two.merge_profiles(["technical"], [0.0], name="nothing")
    assert nothing.tensors == {}
    base = logits(two.deactivate())
    assert np.array_equal(logits(two.activate_profile("nothing")), base)


@pytest.mark.parametrize("form", [{"version": 3}, {"format": "v3"}, {"format": "gguf"}])
def test_an_unknown_format_is_refused_before_a_base_is_fetched(
    two: ZenPersonalizationManager, tmp_path: Path, form: dict[str, Any]
) -> None:
    elsewhere = ZenPersonalizationManager("smollm2-135m", home=two.home)
    with pytest.raises(ConfigError) as caught:
        elsewhere.export_profile(two.profiles()[0], tmp_path / "out", **form)
    assert caught.value.field == "format"
    assert "v2" in caught.value.expected
    assert not base_dir("smollm2-135m").exists()


def test_export_import_and_version_1(two: ZenPersonalizationManager, tmp_path: Path) -> None:
    file = tmp_path / "t.bitdelta"
    two.export_profile("technical", file)
    assert two.import_profile(file, "again") == "again"
    with pytest.raises(ProfileExistsError):
        two.import_profile(file)
    assert two.import_profile(file, replace=True) == "technical"
    base, whole = logits(two.deactivate()), logits(two.activate_profile("technical"))
    notes = two.export_profile("technical", tmp_path / "old.bitdelta", version=1)
    assert notes == two.export_profile("technical", tmp_path / "same.bitdelta", format="v1")
    assert list(two.export_folder("technical", tmp_path / "again.bitdelta", "v1").notes) == notes
    old, same, again = ((tmp_path / f"{name}.bitdelta").read_bytes() for name in ("old", "same", "again"))
    assert notes
    assert old == same == again
    assert two.import_profile(tmp_path / "old.bitdelta", "old") == "old"
    assert two.store.header("old").base["verified"] is False
    new, old = two.store.load("technical").tensors, two.store.load("old").tensors
    for name, tensor in new.items():
        signs = [decode_all(each[name].parts, tensor.shape) >= 0 for each in (new, old)]
        assert np.array_equal(*signs), "version 1 keeps every sign, and one scale a tensor"
    near = logits(two.activate_profile("old"))
    assert np.linalg.norm(near - whole) < 0.5 * np.linalg.norm(base - whole)


def test_a_profile_names_its_base(two: ZenPersonalizationManager, tiny_model: Path) -> None:
    assert Path(base_of(two.home, "technical")).samefile(tiny_model)
    with pytest.raises(ProfileNotFoundError):
        base_of(two.home, "nobody")


def test_compressing_a_fine_tune(manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_model, tuned)
    weights = mx.load(str(tuned / "model.safetensors"))
    mx.random.seed(1)
    name = "model.layers.0.self_attn.q_proj.weight"
    weights = {
        n: w + (0.02 * mx.random.normal(w.shape)).astype(w.dtype) if n == name else w for n, w in weights.items()
    }
    mx.eval(weights)
    mx.save_safetensors(str(tuned / "model.safetensors"), weights, metadata={"format": "mlx"})
    report = manager.compress_profile("c", str(tuned), scale="block", block=32, valid=CREATIVE)
    assert [layer.name for layer in report.layers] == [name]
    assert report.metrics["reference_loss"] is not None
    assert report.to_dict()["layers"][0]["name"] == name
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in CREATIVE))
    document = evaluate(manager, rows, ["c"], reference=str(tuned))
    base, profile = document["results"]
    assert profile["retention"] == pytest.approx(
        100 * (base["loss"] - profile["loss"]) / (base["loss"] - document["reference"]["loss"])
    )
    assert document["reference"]["path"] == str(tuned)
    with pytest.raises(TargetError):
        apply_bitdelta(manager.model.model.layers[0], manager.store.load("c"))


def test_evaluate_is_the_promised_document(two: ZenPersonalizationManager, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in CREATIVE))
    two.activate_profile("technical")
    stages: list[Stage] = []
    document = evaluate(two, rows, ["creative", "technical"], on_event=stages.append)
    json.dumps(document, allow_nan=False)
    assert list(document) == ["model", "data", "results", "reference"]
    assert document["model"] == two.model_name
    assert set(document["data"]) == {"path", "sha256", "examples", "tokens"}
    assert document["data"]["examples"] == 2
    assert document["data"]["sha256"] == data_digest(load_examples(rows))
    assert [row["profile"] for row in document["results"]] == [None, "creative", "technical"]
    for row in document["results"]:
        assert set(row) == {
            *("profile", "loss", "perplexity", "retention"),
            *("accuracy", "kl", "agreement", "bleu", "chrf"),
        }
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert row["retention"] is None
    assert document["reference"] is None
    assert two.active == "technical"
    assert {stage.name for stage in stages} == {"base", "creative", "technical"}
    assert evaluate(two, rows, limit=1)["data"]["examples"] == 1
    with pytest.raises(ConfigError):
        evaluate(two, rows, limit=0)
    with pytest.raises(ProfileNotFoundError):
        evaluate(two, rows, ["nobody"])
    with pytest.raises(DataError):
        evaluate(two, tmp_path / "none.jsonl")
    image = tmp_path / "plot.png"
    plot_losses(document, image)
    assert image.read_bytes().startswith(b"\x89PNG\r\n")
    with_reference = document | {"reference": {"path": "x", "loss": 1.0, "perplexity": math.e}}
    plot_losses(with_reference, image)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["plot.png", "rows.jsonl"]


def test_exports_and_tables_train_with_the_secrets_out(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    chat = tmp_path / "chat.txt"
    chat.write_text("31/12/2023, 22:59 - Anna: canary@x.org?\n31/12/2023, 23:00 - Kim: yes, it is\n")
    table = tmp_path / "faq.csv"
    table.write_text("question,answer\nwhat,that\nwhat,that\n,\n")
    imported: list[ImportReport] = []
    manager.create_profile(
        "p",
        [chat, table],
        me="kim",
        columns={"prompt": "question", "completion": "answer"},
        steps=1,
        replace=True,
        on_event=lambda event: imported.append(event) if isinstance(event, ImportReport) else None,
    )
    assert imported[0].examples == 2
    assert imported[0].scrubbed == {"e-mail address": 1}
    assert imported[0].duplicates.count == 1
    assert b"canary" not in manager.store.path("p").read_bytes()
    with pytest.raises(DataError, match="which sender"):
        manager.create_profile("q", chat)
