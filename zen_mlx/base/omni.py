"""Qwen3-Omni checkpoints: the text part ("thinker") as a plain qwen3_moe model.

`thinker.model.X -> model.X`, `thinker.lm_head.X -> lm_head.X`; audio and vision towers, the talker and the vocoder are
left out. A caller that wants to tell the user so asks `notes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelFormatError
from ..fsio import Json

MODEL_TYPE = "qwen3_omni_moe"
_PREFIX = "thinker."
_KEPT = (_PREFIX + "model.", _PREFIX + "lm_head.")
_OTHER_PARTS = ("thinker_config", "talker_config", "code2wav_config")


def is_omni(config: Json) -> bool:
    """Whether `config` (config.json) is a Qwen3-Omni checkpoint's."""
    return config.get("model_type") == MODEL_TYPE


def notes(config: Json) -> list[str]:
    """What a user should know about how this checkpoint is used, one sentence each."""
    if not is_omni(config):
        return []
    return ["Only the text part of this model is loaded: audio, images and speech output are left out."]


def text_config(config: Json, folder: Path) -> Json:
    """The text settings inside an omni `config`, as an override for mlx-lm's `load_model`."""
    text = _text(config)
    if text is None:
        raise ModelFormatError(
            "the omni configuration has no text part", path=folder / "config.json", field="thinker_config.text_config"
        )
    out = {**text, "model_type": MODEL_TYPE}
    scaling = out.get("rope_scaling")
    if isinstance(scaling, dict) and "mrope_section" in scaling:
        # For text the three position streams are equal, which is ordinary RoPE.
        out["rope_scaling"] = None
    parameters = out.get("rope_parameters")
    if isinstance(parameters, dict) and "rope_theta" in parameters:
        out.setdefault("rope_theta", parameters["rope_theta"])
    out.setdefault("tie_word_embeddings", False)
    return out


def plain_config(config: Json) -> Json:
    """`config` as that of the qwen3_moe model the text part is; any other configuration unchanged."""
    if not is_omni(config):
        return config
    rest = {key: value for key, value in config.items() if key not in _OTHER_PARTS}
    return {**(_text(config) or {}), **rest, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}


def model_classes(config: Json) -> tuple[type, type]:
    """mlx-lm's qwen3_moe classes, the model's `sanitize` reading the omni names."""
    from mlx_lm.models import qwen3_moe

    class Thinker(qwen3_moe.Model):
        def sanitize(self, weights: Json) -> Json:
            sanitize: Any = super().sanitize
            return sanitize(rename(weights))

    return Thinker, qwen3_moe.ModelArgs


def rename(weights: Json) -> Json:
    """Keep the thinker's text weights, under qwen3_moe names."""
    return {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_KEPT)}


def _text(config: Json) -> Json | None:
    thinker = config.get("thinker_config")
    text = thinker.get("text_config") if isinstance(thinker, dict) else None
    return text if isinstance(text, dict) else None
