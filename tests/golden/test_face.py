"""What people hold on to stays: today's face has everything that face.json has. `python -m tests.face` writes it anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import face
from tests.face.compare import losses
from tests.face.shape import shape

Face = dict[str, Any]


def test_no_option_or_name_is_lost() -> None:
    present = face.read_off()
    lost = losses({part: face.load()[part] for part in present}, present)
    assert not lost, "\n".join(lost)


def test_no_document_or_file_loses_a_key(tiny_model: Path, tmp_path: Path) -> None:
    recorded = face.load()
    for name in (*face.DEAR, *(() if face.have_tasks() else ("zen eval", "zen eval --tasks"))):
        recorded["documents"].pop(name, None)
    lost = losses(recorded, face.record(tiny_model, tmp_path))
    assert not lost, "\n".join(lost)


def test_a_document_made_elsewhere_is_compared_too() -> None:
    lost = face.lost_of("zen bench kernels", {"date": "today"})
    assert "document zen bench kernels: key machine.name is gone" in lost
    assert not [sentence for sentence in lost if "date" in sentence or "(document)" in sentence]


def test_the_same_face_has_lost_nothing() -> None:
    assert losses(face.load(), face.load()) == []


def option(of: Face, command: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in of["commands"][command]["options"] if name in each["names"])
    return found


def manager(of: Face, method: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = of["python"]["zen_mlx.ZenPersonalizationManager"]["attributes"][method]["parameters"]
    return found


FLAG = {"names": ["--new"], "type": "boolean", "default": False, "required": False, "multiple": False, "is_flag": True}
NEW = {"name": "new", "kind": "keyword_only"}
OLD = {"name": "new", "kind": "positional_or_keyword", "default": "1"}


def without_option(of: Face) -> None:
    options = of["commands"]["zen train"]["options"]
    options.remove(option(of, "zen train", "--seed"))


def in_other_order(of: Face) -> None:
    manager(of, "export_profile")[1:3] = reversed(manager(of, "export_profile")[1:3])


BROKEN: list[tuple[Callable[[Face], Any], str]] = [
    (lambda of: of["commands"].pop("zen profile merge"), "command zen profile merge is gone"),
    (without_option, "command zen train: option --seed is gone"),
    (lambda of: option(of, "zen train", "-m")["names"].remove("-m"), "command zen train: option -m is gone"),
    (
        lambda of: option(of, "zen train", "--seed").update(default=1),
        "command zen train: option --seed: default was 0 and is 1",
    ),
    (
        lambda of: option(of, "zen train", "--seed").update(type="text"),
        "command zen train: option --seed: type was 'integer' and is 'text'",
    ),
    (
        lambda of: option(of, "zen train", "--method").update(choices=["sign"]),
        "command zen train: option --method: choice factor is gone",
    ),
    (
        lambda of: option(of, "zen train", "--method").update(required=True),
        "command zen train: option --method is required now",
    ),
    (
        lambda of: of["commands"]["zen train"]["options"].append(FLAG | {"required": True}),
        "command zen train: option --new is new and required",
    ),
    (
        lambda of: of["commands"]["zen inspect"]["arguments"].append(FLAG | {"name": "new", "required": True}),
        "command zen inspect: argument new is new and required",
    ),
    (
        lambda of: of["commands"]["zen inspect"]["arguments"].clear(),
        "command zen inspect: argument file is gone",
    ),
    (
        lambda of: of["documents"]["zen train"].pop("metrics.base_loss"),
        "document zen train: key metrics.base_loss is gone",
    ),
    (
        lambda of: of["documents"]["zen eval"].update({"results[].loss": "string"}),
        "document zen eval: the type of results[].loss was number and is string",
    ),
    (
        lambda of: of["documents"]["zen eval"].update({"results[].loss": "null | number"}),
        "document zen eval: the type of results[].loss was number and is null | number",
    ),
    (
        lambda of: of["documents"]["zen eval"].update({"results[].kl": "null"}),
        "document zen eval: the type of results[].kl was null | number and is null",
    ),
    (
        lambda of: of["files"]["log.jsonl, event step"].pop("loss"),
        "file log.jsonl, event step: key loss is gone",
    ),
    (lambda of: of["errors"].pop("DataError"), "error DataError is gone"),
    (lambda of: of["errors"]["DataError"].update(exit_code=1), "error DataError: its exit code was 2 and is 1"),
    (lambda of: of["errors"]["DataError"]["bases"].remove("InputError"), "error DataError is no longer a InputError"),
    (lambda of: of["errors"]["DataError"]["attributes"].pop("hint"), "error DataError: its hint is gone"),
    (lambda of: of["variables"].pop("ZEN_HOME"), "environment variable ZEN_HOME is gone"),
    (
        lambda of: of["variables"]["ZEN_HOME"].update(read=False),
        "environment variable ZEN_HOME: read was True and is False",
    ),
    (lambda of: of["exit_codes"].update(Interrupted=1), "exit code of Interrupted was 130 and is 1"),
    (lambda of: of["chat_commands"].remove("/retry"), "/retry in a chat is gone"),
    (lambda of: of["keywords"]["create_profile"].pop("steps"), "keywords of create_profile: steps is gone"),
    (lambda of: of["python"].pop("zen_mlx.load_base"), "Python name zen_mlx.load_base is gone"),
    (
        lambda of: of["python"]["zen_mlx.ZenPersonalizationManager"]["attributes"].pop("tokenizer"),
        "Python name zen_mlx.ZenPersonalizationManager: its tokenizer is gone",
    ),
    (
        lambda of: manager(of, "merge_profiles").append(NEW),
        "Python name zen_mlx.ZenPersonalizationManager: its merge_profiles: parameter new is new and required",
    ),
    (
        lambda of: manager(of, "merge_profiles")[1].pop("default"),
        "Python name zen_mlx.ZenPersonalizationManager: its merge_profiles: the default of weights was None and is gone",
    ),
    (
        in_other_order,
        "Python name zen_mlx.ZenPersonalizationManager: its export_profile: its parameters by position began with "
        "name, file, version, replace",
    ),
    (
        lambda of: manager(of, "merge_profiles").insert(0, OLD),
        "Python name zen_mlx.ZenPersonalizationManager: its merge_profiles: its parameters by position began with "
        "names, weights",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), BROKEN, ids=[sentence for _, sentence in BROKEN])
def test_what_is_lost_is_named(change: Callable[[Face], Any], sentence: str) -> None:
    now = copy.deepcopy(face.load())
    change(now)
    assert losses(face.load(), now) == [sentence]


ADDED: list[Callable[[Face], Any]] = [
    lambda of: of["commands"].update({"zen new": {"arguments": [FLAG | {"required": True}], "options": []}}),
    lambda of: of["commands"]["zen train"]["options"].insert(0, FLAG),
    lambda of: option(of, "zen train", "--seed")["names"].append("-s"),
    lambda of: option(of, "zen train", "--method")["choices"].append("new"),
    lambda of: option(of, "zen train", "--profile").update(required=False),
    lambda of: of["commands"]["zen inspect"]["arguments"].append(FLAG | {"name": "new"}),
    lambda of: of["documents"]["zen train"].update({"metrics.new": "number"}),
    lambda of: of["documents"]["zen eval"].update({"results[].kl": "number"}),
    lambda of: of["documents"]["zen compress"].update({"log": "string"}),
    lambda of: of["variables"].update(ZEN_NEW={"read": True}),
    lambda of: of["errors"].update(NewError={}),
    lambda of: manager(of, "merge_profiles").append(NEW | {"default": "1"}),
    lambda of: manager(of, "export_profile").insert(4, OLD),
]


@pytest.mark.parametrize("change", ADDED, ids=range(len(ADDED)))
def test_additions_are_welcome(change: Callable[[Face], Any]) -> None:
    now = copy.deepcopy(face.load())
    change(now)
    assert now != face.load()
    assert losses(face.load(), now) == []


def test_the_shape_of_documents() -> None:
    found = shape({"a": [{"b": 1, "c": None}, {"b": 2.5}], "n": {"x.txt": True}}, {"a": [], "n": {}}, data_keys={"n"})
    assert found == {
        "(document)": "object",
        "a": "array",
        "a[]": "object",
        "a[].b": "number",
        "a[].c": "absent | null",
        "n": "object",
        "n.*": "bool",
    }
