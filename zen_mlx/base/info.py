"""name -> what identifies a base: the model id, its folder, its digests, how it is quantized."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..errors import ModelNotFoundError
from . import check, omni, registry
from .fingerprint import fingerprint
from .pull import local_path, pull

DERIVED_FROM = "zen_derived_from"


@dataclasses.dataclass(frozen=True)
class BaseInfo:
    """A base on this machine.

    model: an alias, a repository id or an absolute folder: what `load_base` takes. weights, tokenizer: hex digests.
    quantization: mlx-lm's table (group_size, bits, ...), None for a dense base. derived_from: weight digest of the base
    this one was quantized from. notes: what a user should be told, a sentence each.
    """

    model: str
    path: Path
    architecture: str
    weights: str
    tokenizer: str
    quantization: dict[str, Any] | None
    derived_from: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document of `zen models show --json`."""
        return {
            "name": self.model,
            "path": str(self.path),
            "architecture": self.architecture,
            "fingerprint": {"weights": self.weights, "tokenizer": self.tokenizer},
            "quantization": self.quantization,
            "derived_from": self.derived_from,
            "notes": list(self.notes),
        }

    def header(self) -> dict[str, Any]:
        """The `base` object of a profile fitted on this base. A folder is named by its last part: no path leaves here."""
        table = self.quantization or {}
        kept = {key: table[key] for key in ("bits", "group_size", "mode") if key in table}
        out = {
            "model": Path(self.model).name if Path(self.model).is_dir() else self.model,
            "architecture": self.architecture,
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "quantization": kept or None,
            "verified": True,
        }
        return out | ({"derived_from": self.derived_from} if self.derived_from else {})


def base_info(name: str) -> BaseInfo:
    """What the base `name` on this machine is; hashes its weights unless that was done before.

    Only the small embedded base is fetched when it is absent. Raises `ModelNotFoundError` for any other.
    """
    source = registry.resolve(name)
    folder = pull(name) if source.kind == "embedded" else local_path(name)
    if folder is None:
        raise ModelNotFoundError(
            f"{source.name} is not on this machine", field="model", found=name, hint=f"zen models pull {name}"
        )
    config = check.check_folder(folder)
    digests = fingerprint(folder)
    derived = config.get(DERIVED_FROM)
    return BaseInfo(
        model=source.name,
        path=folder,
        architecture=config["model_type"],
        weights=digests.weights,
        tokenizer=digests.tokenizer,
        quantization=quantization(config),
        derived_from=derived if isinstance(derived, str) else None,
        notes=tuple(omni.notes(config)),
    )


def describe(name: str) -> dict[str, Any]:
    """`base_info(name)` as the document of `zen models show --json`."""
    return base_info(name).to_dict()


def quantization(config: dict[str, Any]) -> dict[str, Any] | None:
    """The quantization table of a config.json, None for dense weights."""
    table = config.get("quantization") or config.get("quantization_config")
    return table if isinstance(table, dict) else None
