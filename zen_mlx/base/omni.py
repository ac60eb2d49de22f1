"""Qwen3-Omni checkpoints: the text part ("thinker") as a plain qwen3_moe model.

`thinker.model.X -> model.X`, `thinker.lm_head.X -> lm_head.X`; audio and vision towers, the talker and the vocoder are
left out. A caller that wants to tell the user so asks `notes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelFormatError

MODEL_TYPE = "qwen3_omni_moe"
_PREFIX = "thinker."
_KEPT = (_PREFIX + "model.", _PREFIX + "lm_head.")


def is_omni(config: dict[str, Any]) -> bool:
    """Whether `config` (config.json) is a Qwen3-Omni checkpoint's."""
    return config.get("model_type") == MODEL_TYPE


def notes(config: dict[str, Any]) -> list[str]:
    """What a user should know about how this checkpoint is used, one sentence each."""
    if not is_omni(config):
        return []
    return ["Only the text part of this model is loaded: audio, images and speech output are left out."]


def text_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The qwen3_moe configuration inside an omni `config`, as an override for mlx-lm's `load_model`."""
    thinker = config.get("thinker_config")
    text = thinker.get("text_config") if isinstance(thinker, dict) else None
    if not isinstance(text, dict):
        raise ModelFormatError(
            "the omni configuration has no text part", path=folder / "config.json", field="thinker_config.text_config"
        )
    out = dict(text)
    scaling = out.get("rope_scaling")
    if isinstance(scaling, dict) and "mrope_section" in scaling:
        # For text the three position streams are equal, which is ordinary RoPE.
        out["rope_scaling"] = None
    parameters = out.get("rope_parameters")
    if isinstance(parameters, dict) and "rope_theta" in parameters:
        out.setdefault("rope_theta", parameters["rope_theta"])
    out.setdefault("tie_word_embeddings", False)
    return {**out, "model_type": MODEL_TYPE}


def model_classes(config: dict[str, Any]) -> tuple[type, type]:
    """mlx-lm's qwen3_moe classes, the model's `sanitize` reading the omni names."""
    from mlx_lm.models import qwen3_moe

    class Thinker(qwen3_moe.Model):
        def sanitize(self, weights: dict[str, Any]) -> dict[str, Any]:
            return super().sanitize(rename(weights))

    return Thinker, qwen3_moe.ModelArgs


def rename(weights: dict[str, Any]) -> dict[str, Any]:
    """Keep the thinker's text weights, under qwen3_moe names."""
    return {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_KEPT)}
