"""A model folder -> the mlx-lm module as it is stored, weights not read yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelFormatError
from ..fsio import Json
from . import omni, validate

if TYPE_CHECKING:
    import mlx.nn as nn


def build(folder: Path) -> nn.Module:
    """The mlx-lm module of the model folder as stored, its weights still to be read from disk."""
    return build_with_config(folder)[0]


def build_with_config(folder: Path) -> tuple[nn.Module, Json]:
    """`build` and the configuration mlx-lm made of config.json. Code in the folder is never run."""
    from mlx_lm import utils

    config = validate.read_config(folder)
    kwargs: Json = {}
    if omni.is_omni(config):
        kwargs = {"get_model_classes": omni.model_classes, "model_config": omni.text_config(config, folder)}
    try:
        model, config = utils.load_model(folder, lazy=True, trust_remote_code=False, **kwargs)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        AssertionError,
        OSError,
        RuntimeError,
    ) as error:
        raise ModelFormatError("mlx-lm cannot build this model", path=folder, found=first_line(error)) from error
    return model, config


def first_line(error: BaseException) -> str:
    """The first line of what `error` says, its type when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
