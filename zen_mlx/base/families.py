"""What single families need beyond their configuration's fields, so that mlx-lm computes what transformers does.

mlx-lm 0.32.2 wants fields of some that transformers 5 no longer writes, reads names of tensors that it does not save, and
has one form of GELU built in where the configuration names another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..fsio import Json
from . import omni, rope
from .dialect import meaning

# MLX's form of GELU -> its names in a configuration; and the form that mlx-lm's family has built in.
_GELU = {"gelu_approx": ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), "gelu": ("gelu",)}
_BUILT_IN = {"gemma": "gelu", "starcoder2": "gelu", "gpt_neox": "gelu_approx", "phi": "gelu_approx"}


def family_fields(config: Json) -> Json:
    """Fields for mlx-lm that follow from what `config`, already `for_mlx`, says otherwise or that the family fixes."""
    kind = config["model_type"]
    if kind == "apertus":  # constants of transformers' ApertusModel
        return {"mlp_bias": False, "post_norm": False, "qk_norm": True} | _written(
            config, "mlp_bias", "post_norm", "qk_norm"
        )
    if kind == "deepseek_v2" and not config.get("rope_scaling"):
        return {"rope_scaling": {"type": "yarn", "factor": 1.0}}  # stretched by 1 is the plain rope
    if kind == "exaone4":
        return {"sliding_window_pattern": _letters(config.get("layer_types") or [])}
    if kind == "lfm2":
        return {"block_dim": config["hidden_size"]} | _written(config, "block_dim")
    return {}


def model_classes(config: Json) -> tuple[type, type]:
    """mlx-lm's classes for `config`, the model reading the names that transformers saves."""
    from mlx_lm import utils

    if omni.is_omni(config):
        return omni.model_classes(config)
    model, arguments = utils._get_classes(config)
    rename = _RENAMES.get(config["model_type"])
    return (_renaming(model, rename) if rename else model), arguments


def set_activation(model: Any, config: Json) -> None:
    """The MLP of these families gets the form of GELU that the configuration names; mlx-lm has one of the two built in."""
    built_in = _BUILT_IN.get(config["model_type"])
    meant = meaning(config)
    name = getattr(meant, "hidden_activation", None) or getattr(meant, "hidden_act", None)
    wanted = next((form for form, names in _GELU.items() if name in names), built_in)
    if built_in is None or wanted is None or built_in == wanted:
        return
    for layer in model.layers:
        layer.mlp.__class__ = _mlp_class(type(layer.mlp), wanted)


def one_name(activation: str) -> str:
    """The one name of an activation that has several."""
    known = {name: form for form, names in _GELU.items() for name in names} | {"swish": "silu"}
    return known.get(activation, activation)


def set_rope(model: Any, config: Json) -> None:
    """What mlx-lm leaves out: GLM turns a part of each head, and `truncate` of a yarn rope (gpt-oss) may be false."""
    for path, module in rope.built_ropes(model):
        table = rope.table_of(config, path)
        wanted = rope.expected(table, config, module)
        if wanted is None:
            continue
        if config["model_type"] == "glm":
            module.dims = 2 * len(wanted.angles)
        elif table.get("truncate") is False and table.get("rope_type") == "yarn":
            module._freqs = rope.freqs_of(wanted)


def _written(config: Json, *keys: str) -> Json:
    return {key: config[key] for key in keys if config.get(key) is not None}


def _letters(types: list[str]) -> str | None:
    """EXAONE's pattern of layers: L slides, G sees all; None where all layers see all."""
    letters = "".join("L" if kind == "sliding_attention" else "G" for kind in types)
    return letters if "L" in letters else None


def _renaming(model: Any, rename: Callable[[Json], Json]) -> type:
    class Renaming(model):
        def sanitize(self, weights: Json) -> Json:
            sanitize: Any = super().sanitize
            return sanitize(rename(weights))

    return Renaming


def _gpt2_names(weights: Json) -> Json:
    return {name.removeprefix("transformer."): value for name, value in weights.items()}


def _gpt_oss_names(weights: Json) -> Json:
    """Dense experts lie [E, K, N] as transformers saves them, and [E, N, K] in mlx-lm."""
    if any(name.endswith("gate_proj.weight") for name in weights):
        return weights
    return {
        f"{name}.weight" if dense else name: value.swapaxes(-1, -2) if dense else value
        for name, value in weights.items()
        for dense in (name.endswith(("experts.gate_up_proj", "experts.down_proj")),)
    }


def _mlp_class(mlp: Any, form: str) -> type:
    import mlx.nn as nn

    gelu: Any = getattr(nn, form)

    class OtherGelu(mlp):
        def __call__(self, x: Any) -> Any:
            if "gate_proj" in self:
                return self.down_proj(gelu(self.gate_proj(x)) * self.up_proj(x))
            first, second = ("c_fc", "c_proj") if "c_fc" in self else ("dense_h_to_4h", "dense_4h_to_h")
            return self[second](gelu(self[first](x)))

    return OtherGelu


_RENAMES: dict[str, Callable[[Json], Json]] = {"gpt2": _gpt2_names, "gpt_oss": _gpt_oss_names}
