"""Every error zen_mlx raises on purpose, as one tree.

ZenError                      exit code 1
├── InputError                exit code 2: the caller gave something unusable
│   ├── FormatError           a file's bytes break its format
│   │   └── UnsupportedFormat a valid file of a kind this version does not read
│   ├── ConfigError           a setting has a bad value
│   ├── DataError             training or evaluation data cannot be used
│   ├── NameInvalidError      a name cannot become a path
│   ├── ProfileExistsError    the name is taken
│   ├── ProfileNotFoundError  no such profile
│   ├── ModelNotFoundError    no such base model
│   ├── ModelFormatError      a model folder cannot be read
│   ├── TargetError           a delta names a parameter the base lacks, or another shape
│   ├── BaseMismatchError     the profile belongs to other weights or another tokenizer
│   └── ResumeMismatchError   the checkpoint belongs to other data or settings
├── DownloadError             the network failed; what arrived is kept
├── UploadError               the hub did not take it; nothing was published
├── StorageError              the disk refused (full, read-only)
├── MemoryLimitError          exit code 2: the work would not fit in memory; nothing was begun
├── TrainingError             the loss stopped being a number
└── KernelError               a kernel does not compute what it should on this machine
"""

from __future__ import annotations

import os
from typing import Any


class ZenError(Exception):
    """`message`, and where known the `path`, `field`, `expected` and `found` behind it; `hint` is the way out.

    option: how the command line spells `field`, where a person typed it there.
    """

    exit_code = 1
    option: str | None = None

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        field: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else os.fspath(path)
        self.field = field
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        named = ("field", self.field) if self.option is None else ("option", self.option)
        facts = [named, ("expected", self.expected), ("found", self.found)]
        if self.message == f"{named[1]} must be {self.expected}":
            facts = facts[2:]
        details = [f"{name} {value}" for name, value in facts if value is not None]
        if details:
            parts.append(f"({'; '.join(details)})")
        if self.path is not None and self.path not in self.message:
            parts.insert(0, f"{self.path}:")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The error as the `error` object of `--json` output."""
        fields = {
            "path": self.path,
            "field": self.field,
            "option": self.option,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }
        out: dict[str, Any] = {"type": type(self).__name__, "message": self.message}
        for name, value in fields.items():
            if value is not None:
                out[name] = value if isinstance(value, (int, float, str, bool, list, dict)) else str(value)
        return out


class InputError(ZenError):
    """The caller gave something unusable; nothing was changed."""

    exit_code = 2


class FormatError(InputError):
    """A file's bytes break its format."""


class UnsupportedFormat(FormatError):
    """A well-formed file of a kind or version this reader does not know."""


class ConfigError(InputError):
    """A setting has a bad value."""


class DataError(InputError):
    """Training or evaluation data cannot be used."""


class NameInvalidError(InputError):
    """A name cannot safely become a path."""


class ProfileExistsError(InputError):
    """The profile name is taken."""


class ProfileNotFoundError(InputError):
    """No profile of that name."""


class ModelNotFoundError(InputError):
    """No base model of that name, here or on the hub."""


class ModelFormatError(InputError):
    """A model folder cannot be read."""


class TargetError(InputError):
    """A delta names a parameter the base does not have, or with another shape."""


class BaseMismatchError(InputError):
    """A profile belongs to other base weights or to another tokenizer."""


class ResumeMismatchError(InputError):
    """A checkpoint belongs to other data or settings."""


class DownloadError(ZenError):
    """The network failed; what arrived is kept for the next try."""


class UploadError(ZenError):
    """The hub did not take what was sent, or could not be reached; nothing was published."""


class StorageError(ZenError):
    """The disk refused a write; what was there before is untouched."""


class MemoryLimitError(ZenError):
    """The work would not fit in memory; nothing was begun."""

    exit_code = 2


class QueueFull(ZenError):
    """More requests wait than may; try again in `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.retry_after = retry_after


class TrainingError(ZenError):
    """The loss stopped being a number or exploded; the last good state is kept."""


class KernelError(ZenError):
    """A kernel does not compute what it should on this machine, and `ZEN_KERNELS=custom` asked for it."""
