"""Settings: the training configuration (whitepaper, Appendix A) and the user's config file."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from typing import Any

from .errors import ConfigError
from .names import config_path

BLOCK_SIZES = (32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class BitDeltaConfig:
    """How a profile is trained. Field names and defaults are the whitepaper's Appendix A.

    block_size: columns that share a scale when `use_per_channel_scale` is false: 32, 64, 128 or 256.
    use_per_channel_scale: true: scale[n, k] = row[n] * col[k]; false: one scale per block of `block_size` columns.
    straight_through: true: the progressive schedule, pure 1-bit at the end; false: full precision, signs at the end.
    delta_regularization: L2, decoupled: d <- d - rate * L2 * d after each step.
    sparsity_penalty: L1, decoupled: d <- d - rate * L1 * mean|d| * sign(d); a row whose scale ends below L1 times its
        layer's mean scale is stored with scale 0.
    learning_rate_scale: multiplies the method's reference rate (sign: 1e-3, in full precision 5e-4; factor of rank r:
        1e-2 * sqrt(44 / r)).
    warmup_steps: steps of linear rate warm-up, at most a tenth of the run.
    """

    block_size: int = 128
    use_per_channel_scale: bool = True
    straight_through: bool = True
    delta_regularization: float = 0.01
    sparsity_penalty: float = 0.001
    learning_rate_scale: float = 0.1
    warmup_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("use_per_channel_scale", "straight_through"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"bad {name}", field=name, expected="true or false", found=getattr(self, name))
        if type(self.block_size) is not int or self.block_size not in BLOCK_SIZES:
            raise ConfigError("bad block size", field="block_size", expected=BLOCK_SIZES, found=self.block_size)
        if type(self.warmup_steps) is not int or self.warmup_steps < 0:
            raise ConfigError(
                "bad warmup_steps", field="warmup_steps", expected="a whole number >= 0", found=self.warmup_steps
            )
        for name in ("delta_regularization", "sparsity_penalty", "learning_rate_scale"):
            value = getattr(self, name)
            number = type(value) in (int, float) and math.isfinite(value)
            positive = name == "learning_rate_scale"
            if not number or value < 0 or (positive and value == 0):
                raise ConfigError(
                    f"bad {name}", field=name, expected=f"a number {'>' if positive else '>='} 0", found=value
                )


def user_config() -> dict[str, Any]:
    """`ZEN_HOME/config.toml` as a dict, {} when absent."""
    path = config_path()
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration file is not valid TOML", path=path, found=str(error)) from error
