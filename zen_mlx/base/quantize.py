"""name -> a quantized copy of the base under `ZEN_HOME/bases`, which records its source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .. import fsio, paths
from ..errors import ConfigError, InputError
from ..fsio import Json
from . import omni, pull, registry, validate
from .build import head_flag
from .derived import DERIVED_FROM, quantized, remember_made
from .fingerprint import fingerprint
from .loaded import quantization
from .save import exclusive

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
_DEFAULT_GROUP = 64
_COPIED = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")


def quantize(name: str, bits: int, group_size: int = _DEFAULT_GROUP) -> Path:
    """Make `NAME-{bits}bit` from the base `name` (mlx-lm's affine quantization) and return its folder.

    config.json gets `zen_derived_from`, the source's weight digest. The tokenizer's files are copied as they are. The
    same request again returns what is there. Raises `ConfigError` for bits or a group size MLX does not have.
    """
    for field, value, allowed in (("bits", bits, BITS), ("group_size", group_size, GROUP_SIZES)):
        if value not in allowed:
            raise ConfigError(f"bad {field}", field=field, expected=allowed, found=value)
    source = registry.resolve(name)
    folder = pull.pull(name)
    if quantization(validate.check_folder(folder)) is not None:
        raise InputError("this base is already quantized", path=folder, field="model", found=name)
    digest = fingerprint(folder).weights
    target = paths.base_dir(_target_name(source, folder, bits, group_size))
    with exclusive(target):
        if not _is_made(target, digest):
            with fsio.publish(target, folder=True, mode=0o755) as temporary:
                _write(folder, temporary, digest, bits, group_size)
                validate.check_folder(temporary)
            remember_made(target, digest)
    return target


def _target_name(source: registry.Source, folder: Path, bits: int, group_size: int) -> str:
    stem = folder.name if source.kind == "folder" else source.name.replace("/", "--")
    return f"{stem}-{bits}bit" + (f"-g{group_size}" if group_size != _DEFAULT_GROUP else "")


def _is_made(target: Path, digest: str) -> bool:
    return (target / "config.json").is_file() and validate.read_config(target).get(DERIVED_FROM) == digest


def _write(source: Path, target: Path, digest: str, bits: int, group_size: int) -> None:
    from mlx_lm import utils

    model, config = quantized(source, bits, group_size)
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if file.name not in ("config.json", validate.INDEX):
                shutil.copyfile(file, target / file.name)
    utils.save_model(target, model, donate_model=True)
    packed: Json = {key: config[key] for key in ("quantization", "quantization_config") if key in config}
    plain = omni.plain_config(validate.read_config(source))
    _write_config(target, {**plain, **packed, **head_flag(source), DERIVED_FROM: digest})


def _write_config(target: Path, config: Json) -> None:
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
