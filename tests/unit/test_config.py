"""Every setting of every dataclass refuses what is just outside its bounds, by its name, and takes what is just inside."""

from __future__ import annotations

import math
from typing import Any

import pytest

from zen_mlx.config import BitDeltaConfig, CompressOptions, Sampling, Setting, TrainOptions, settings_of
from zen_mlx.errors import ConfigError

OWNERS = (BitDeltaConfig, TrainOptions, CompressOptions, Sampling)
SETTINGS = [(owner, name) for owner in OWNERS for name in settings_of(owner)]
UNBOUNDED = {"use_per_channel_scale", "straight_through", "factor_scales", "grad_checkpoint"}


def outside(known: Setting, whole: bool) -> list[Any]:
    """The values nearest to the bounds that are not good."""
    near: list[Any] = []
    if known.choices:
        near.append("nothing" if isinstance(known.choices[0], str) else max(known.choices) + 1)
    if known.least is not None:
        near.append(known.least - 1 if whole else math.nextafter(known.least, -math.inf))
    if known.above is not None:
        near.append(known.above)
    if known.most is not None:
        near.append(known.most + 1 if whole else math.nextafter(known.most, math.inf))
    return near


def inside(known: Setting, whole: bool) -> list[Any]:
    """The values at the bounds that are good."""
    near = [*known.choices, *(bound for bound in (known.least, known.most) if bound is not None)]
    return near if known.above is None else [*near, known.above + 1 if whole else math.nextafter(known.above, math.inf)]


def _setting(owner: type, name: str) -> tuple[Setting, str]:
    each = settings_of(owner)[name]
    return each.metadata["setting"], str(each.type)


@pytest.mark.parametrize(("owner", "name"), SETTINGS, ids=lambda value: getattr(value, "__name__", value))
def test_the_bounds_of_a_setting_hold(owner: type, name: str) -> None:
    known, kind = _setting(owner, name)
    whole = kind.startswith("int")
    for value in inside(known, whole):
        assert getattr(owner(**{name: value}), name) == value
    bad = outside(known, whole)
    assert bad or name in UNBOUNDED
    wrong_kind = ["yes", 1, None] if kind == "bool" else ["1"] if known.choices == () and "bool" not in kind else [3.5]
    not_finite = [math.nan, math.inf, -math.inf] if kind.startswith("float") else [1.5, True] if whole else []
    for value in [*bad, *wrong_kind, *not_finite, *([] if "None" in kind else [None])]:
        with pytest.raises(ConfigError) as caught:
            owner(**{name: value})
        assert caught.value.field == name
        assert caught.value.found is value
        assert str(caught.value).startswith(f"{name} must be ")
        assert ("finite" in caught.value.expected) == (
            isinstance(value, float) and not math.isfinite(value) and not whole
        )
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            owner(**{name: value})
        limits = [known.least, known.above, known.most] if not known.choices else known.choices
        assert all(str(limit) in caught.value.expected for limit in limits if limit is not None)


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_defaults_are_good_and_each_setting_has_a_sentence(owner: type) -> None:
    made = owner()
    for name, each in settings_of(owner).items():
        assert getattr(made, name) == each.default == getattr(owner, name)
        text = each.metadata["setting"].help
        assert text.endswith(".")
        assert len(text) > 15


def test_the_words_of_bounds() -> None:
    def words(owner: type, **value: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            owner(**value)
        return str(caught.value)

    assert words(TrainOptions, batch_size=0) == "batch_size must be a whole number of at least 1 (found 0)"
    assert words(TrainOptions, epochs=0) == "epochs must be a number above 0 (found 0)"
    assert words(TrainOptions, bits_per_weight=5) == "bits_per_weight must be a number from 0.02 to 4 (found 5)"
    assert words(Sampling, top_p=2) == "top_p must be a number above 0 and at most 1 (found 2)"
    assert words(BitDeltaConfig, block_size=7) == "block_size must be 32, 64, 128 or 256 (found 7)"
    assert words(BitDeltaConfig, straight_through=1) == "straight_through must be true or false (found 1)"
