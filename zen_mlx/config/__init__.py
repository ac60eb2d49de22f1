"""Settings, each with its default, bounds and help text in one place: training, compressing, answering; the user's file."""

from .answering import SEEDS, Sampling, ServeOptions
from .fields import Setting, setting, settings_of
from .fine_tuning import (
    BLOCK_SIZES,
    DEFAULT_SCALE,
    FACTOR_BITS,
    KINDS,
    METHODS,
    MOST_PLANES,
    SCALES,
    BitDeltaConfig,
    CompressOptions,
    MethodName,
    ScaleName,
    TrainOptions,
)
from .user import user_config

__all__ = [
    "BLOCK_SIZES",
    "DEFAULT_SCALE",
    "FACTOR_BITS",
    "KINDS",
    "METHODS",
    "MOST_PLANES",
    "SCALES",
    "SEEDS",
    "BitDeltaConfig",
    "CompressOptions",
    "MethodName",
    "Sampling",
    "ScaleName",
    "ServeOptions",
    "Setting",
    "TrainOptions",
    "setting",
    "settings_of",
    "user_config",
]
