"""Checks of a model folder before MLX reads it: MLX maps whatever a safetensors header claims and may crash.

Raises `ModelFormatError` naming the file.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ModelFormatError
from ..fsio import Json

INDEX = "model.safetensors.index.json"


def check_folder(folder: Path) -> Json:
    """Check config.json, every `model*.safetensors` header and the index; return the config."""
    config = read_config(folder)
    if config.get("model_file") is not None:
        raise ModelFormatError(
            "this model brings its own Python code, which zen_mlx never runs",
            path=folder / "config.json",
            field="model_file",
            found=config["model_file"],
        )
    names: dict[str, str] = {}
    for file in weight_files(folder):
        for name in tensor_names(file):
            if name in names:
                raise ModelFormatError("a tensor occurs twice", path=file, field=name, found=f"also in {names[name]}")
            names[name] = file.name
    index = folder / INDEX
    if index.is_file():
        _check_index(index, names)
    return config


def is_complete(folder: Path) -> bool:
    """Whether config and every weight file are there: an old cache entry may hold a part of the repository."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / INDEX
    if index.is_file():
        try:
            listed = read_json(index).get("weight_map")
        except ModelFormatError:
            return False
        return isinstance(listed, dict) and all((folder / str(file)).is_file() for file in listed.values())
    return any(folder.glob("model*.safetensors"))


def read_json(path: Path) -> Json:
    """The JSON object in `path`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFormatError("a file of the model is missing", path=path) from None
    except (ValueError, RecursionError, OSError) as error:
        raise ModelFormatError("not a readable JSON file", path=path, found=str(error)) from error
    if not isinstance(value, dict):
        raise ModelFormatError("not a JSON object", path=path, found=type(value).__name__)
    return value


def read_config(folder: Path) -> Json:
    """config.json of the model folder, with a `model_type`."""
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelFormatError(
            "the configuration names no model type",
            path=folder / "config.json",
            field="model_type",
            expected="a string",
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files mlx-lm reads weights from, sorted; at least one."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelFormatError("the folder has no weights", path=folder, expected="model*.safetensors", found="none")
    return files


def tensor_names(file: Path) -> list[str]:
    """Names in a safetensors file whose header, offsets and length agree."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as handle:
            return list(handle.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFormatError("the weights are damaged or incomplete", path=file, found=str(error)) from error


def _check_index(index: Path, names: dict[str, str]) -> None:
    """Every tensor that the index lists is in the file it says."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict):
        raise ModelFormatError("the weight index has no weight_map", path=index, field="weight_map")
    for name, file in listed.items():
        if names.get(name) != file:
            raise ModelFormatError(
                "the weight index and the weights disagree",
                path=index,
                field=name,
                expected=file,
                found=names.get(name, "in no file"),
            )
