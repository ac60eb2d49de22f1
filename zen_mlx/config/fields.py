"""Settings as fields of a dataclass: each with its default, bounds and help text, and checked when it is made."""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

_BOUNDS = (("of at least", operator.ge), ("above", operator.gt), ("at most", operator.le))
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "tuple[str, ...]": ("names", (tuple,)),
}


@dataclass(frozen=True)
class Setting:
    """The help text of a setting, its good values, and how the command line shows it.

    A good number is >= least, > above and <= most; `choices`, where given, are all good values. option: its name where
    that is not the field's.
    """

    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: tuple[Any, ...] = ()
    option: str | None = None

    def check(self, name: str, annotation: str, value: Any) -> None:
        """ConfigError unless `value` is good for the field `name`, annotated such as `float | None`."""
        kind, _, other = annotation.partition(" | ")
        if value is None and other == "None":
            return
        noun, types = _KINDS.get(kind, ("a name", (str,)))
        limits = zip(_BOUNDS, (self.least, self.above, self.most), strict=True)
        bounds = [(words, holds, bound) for (words, holds), bound in limits if bound is not None]
        good = isinstance(value, types) and isinstance(value, bool) == (kind == "bool")
        if good and kind == "float" and not math.isfinite(value):
            good, noun = False, "a finite number"
        if good and all(holds(value, bound) for _, holds, bound in bounds) and value in (self.choices or (value,)):
            return
        expected = " ".join([noun, " and ".join(f"{words} {bound}" for words, _, bound in bounds)]).strip()
        if self.least is not None and self.most is not None:
            expected = f"{noun} from {self.least} to {self.most}"
        if self.choices:
            expected = f"{', '.join(map(str, self.choices[:-1]))} or {self.choices[-1]}"
        raise ConfigError(f"{name} must be {expected}", field=name, expected=expected, found=value)


def setting(default: Any, help: str, **rest: Any) -> Any:
    """A dataclass field that is a setting; `rest`: what else a `Setting` has."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **rest)})


def settings_of(owner: Any) -> dict[str, dataclasses.Field[Any]]:
    """Name -> field of each setting of a dataclass; the field's metadata has the `Setting`."""
    return {each.name: each for each in dataclasses.fields(owner) if "setting" in each.metadata}


class Checked:
    """A dataclass whose settings are checked when it is made."""

    def __post_init__(self) -> None:
        for name, each in settings_of(self).items():
            each.metadata["setting"].check(name, each.type, getattr(self, name))
