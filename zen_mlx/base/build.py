"""A model folder -> the mlx-lm module as it is stored, weights not read yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelFormatError
from ..fsio import Json
from . import dialect, families, omni, rope, tied_head, validate

if TYPE_CHECKING:
    import mlx.nn as nn


def build(folder: Path) -> nn.Module:
    """The mlx-lm module of the model folder as stored, its weights still to be read from disk."""
    return build_with_config(folder)[0]


def build_with_config(folder: Path) -> tuple[nn.Module, Json]:
    """`build` and the configuration mlx-lm made of config.json. Code in the folder is never run."""
    from mlx_lm import utils

    written = validate.read_config(folder)
    config = mlx_config(folder)
    try:
        model, used = utils.load_model(
            folder,
            lazy=True,
            trust_remote_code=False,
            model_config=config,
            get_model_classes=lambda config: families.model_classes(written if omni.is_omni(written) else config),
        )
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        AssertionError,
        OSError,
        RuntimeError,
        SystemExit,  # a family that wants a package of its own ends the process
    ) as error:
        raise ModelFormatError("mlx-lm cannot build this model", path=folder, found=first_line(error)) from error
    families.set_activation(model, config)
    plain = plain_config(folder)
    families.set_rope(model, plain)
    rope.check_rope(model, plain, folder)
    return model, used


def plain_config(folder: Path) -> Json:
    """config.json of the model folder, an omni model's of its text part."""
    config = validate.read_config(folder)
    return omni.text_config(config, folder) if omni.is_omni(config) else config


def mlx_config(folder: Path) -> Json:
    """config.json in the fields that mlx-lm reads, each as transformers means it, and whether the head is the embedding."""
    plain = plain_config(folder)
    config = dialect.for_mlx(plain)
    config |= families.family_fields(config)
    tied = tied_head.is_tied(plain, folder)
    if tied is None:
        return config
    nested = config.get("text_config")
    inner = {"text_config": nested | {tied_head.FLAG: tied}} if isinstance(nested, dict) and not tied else {}
    return config | inner | {tied_head.FLAG: tied}


def head_flag(folder: Path) -> Json:
    """{"tie_word_embeddings": whether the head is the embedding}: what a folder made of this one says."""
    plain = plain_config(folder)
    tied = tied_head.is_tied(plain, folder)
    if tied is None:
        tied = getattr(dialect.meaning(plain), tied_head.FLAG, None)
    return {} if tied is None else {tied_head.FLAG: bool(tied)}


def first_line(error: BaseException) -> str:
    """The first line of what `error` says, its type when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
