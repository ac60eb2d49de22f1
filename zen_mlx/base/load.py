"""name -> (model, tokenizer): new mlx-lm modules at each call, nothing patched; code that comes with a model is never run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelFormatError
from ..events import Progress
from ..fsio import Json
from . import omni, pull, validate
from .build import build, first_line

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

_WORD = "Zebra"  # no template looks at it


def load_base(name: str | Path, *, progress: Progress | None = None) -> tuple[nn.Module, TokenizerWrapper]:
    """Return (model, tokenizer) of the base `name`, fetched first when it is not on this machine.

    The tokenizer is mlx-lm's `TokenizerWrapper`. On MLX without a GPU every f16 and bf16 array becomes f32, several
    times faster there; packed weights of a quantized base stay packed, their scales and biases become f32.
    Raises `ModelNotFoundError`, `DownloadError` or `ModelFormatError`.
    """
    folder = pull.pull(str(name), progress)
    config = validate.check_folder(folder)
    model = load_model(folder)
    return model, load_tokenizer(folder, config)


def load_model(folder: Path) -> nn.Module:
    """The mlx-lm module of the model folder, weights in memory."""
    import mlx.core as mx
    from mlx.utils import tree_map

    model = build(folder)
    if mx.default_device().type == mx.DeviceType.cpu:
        # Half precision does not go through BLAS on the CPU and is five to ten times slower.
        half = (mx.float16, mx.bfloat16)
        model.update(
            tree_map(lambda value: value.astype(mx.float32) if value.dtype in half else value, model.parameters())
        )
    mx.eval(model.parameters())
    model.eval()
    return model


def load_tokenizer(folder: Path, config: Json | None = None) -> TokenizerWrapper:
    """The `TokenizerWrapper` of the model folder."""
    from mlx_lm import utils

    if config is None:
        config = validate.read_config(folder)
    eos = omni.plain_config(config).get("eos_token_id")
    generation = folder / "generation_config.json"
    if generation.is_file():
        eos = validate.read_json(generation).get("eos_token_id") or eos
    try:
        # None would make transformers ask on the terminal whether to run the repository's code.
        tokenizer = utils.load_tokenizer(folder, {"trust_remote_code": False}, eos_token_ids=eos)
    except Exception as error:  # the tokenizers library raises plain Exception for a vocabulary that is not sound
        raise ModelFormatError("the tokenizer cannot be loaded", path=folder, found=first_line(error)) from error
    end = _end_of_turn(tokenizer)
    if end is not None and end not in tokenizer.eos_token_ids:
        tokenizer.eos_token_ids = [*tokenizer.eos_token_ids, end]
    return tokenizer


def _end_of_turn(tokenizer: TokenizerWrapper) -> int | None:
    """The special token that the chat template puts behind an answer, None where there is none.

    It may be special in tokenizer.json alone, and no other file may call it an end.
    """
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": _WORD}, {"role": "assistant", "content": _WORD}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
    except Exception:  # a template is a program of the model's; what it cannot render has no end
        return None
    _, found, behind = rendered.rpartition(_WORD)
    ids = tokenizer.encode(behind.strip(), add_special_tokens=False) if found and behind.strip() else []
    known: Any = tokenizer.added_tokens_decoder
    return int(ids[0]) if ids and ids[0] in known and known[ids[0]].special else None
