"""A pickle of tensors -> plain data, without running anything: a machine for the few opcodes that `torch.save` writes.

Globals are names that are compared with a list, never imported; REDUCE builds one of three known things; there is no
other call. What it admits: `collections.OrderedDict`, `torch._utils._rebuild_tensor_v2`, `torch._utils._rebuild_parameter`
and the torch storages.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, NoReturn

from ...format.spec import MAX_TENSORS, Fail, show

MAX_PICKLE_BYTES = 8 << 20
_MAX_CONTAINERS = 12 * MAX_TENSORS
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_DICT, _TENSOR, _PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
_GLOBALS = {_DICT, _TENSOR, _PARAMETER, *(f"torch {name}" for name in STORAGES)}
_MARK = object()


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage of the archive: safetensors' name of its dtype, its key, its number of elements."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided view of a storage; offset and strides in elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load(data: bytes, fail: Fail) -> object:
    """The value that `data` pickles: dicts, lists, tuples, scalars and `TensorRef`."""
    machine = _Machine(fail)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if machine.step(opcode.name, argument):
                return machine.pop()
    except (ValueError, OverflowError) as error:
        fail("the pickle is damaged", field="data.pkl", expected="opcodes of torch.save", found=str(error)[:80])
    except IndexError:
        fail("the pickle is damaged", field="data.pkl", expected="a value on the stack", found="none")
    return fail("the pickle is damaged", field="data.pkl", expected="STOP", found="the end")


class _Machine:
    def __init__(self, fail: Fail) -> None:
        self.fail = fail
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.containers = 0

    def pop(self) -> object:
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def to_mark(self) -> list[object]:
        """What lies above the last mark, which is taken off too."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise IndexError
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def made(self, value: object) -> None:
        self.containers += 1
        if self.containers > _MAX_CONTAINERS:
            self.fail("too many objects", field="data.pkl", expected=f"<= {_MAX_CONTAINERS}", found="more")
        self.stack.append(value)

    def step(self, name: str, argument: Any) -> bool:
        """One opcode; True at STOP."""
        if name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            return True
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"):
            self.stack.append(argument)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.top()
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise IndexError
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.look_up(argument)
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            self.look_up(f"{module} {attribute}" if isinstance(module, str) and isinstance(attribute, str) else "")
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            self.made({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            count = 0 if name == "TUPLE" else int(name[-1])
            self.made(tuple(self.to_mark() if not count else reversed([self.pop() for _ in range(count)])))
        elif name in ("APPEND", "APPENDS"):
            self.append([self.pop()] if name == "APPEND" else self.to_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items([self.pop(), self.pop()][::-1] if name == "SETITEM" else self.to_mark())
        elif name == "BUILD":
            # A state dict's `_metadata`: versions of torch modules, of no use here.
            self.pop()
            if not isinstance(self.top(), dict):
                self.refuse("BUILD on anything but a dictionary")
        elif name == "BINPERSID":
            self.persistent(self.pop())
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            self.reduce(function, arguments)
        else:
            self.refuse(f"the opcode {name}")
        return False

    def top(self) -> object:
        if self.stack[-1] is _MARK:
            raise IndexError
        return self.stack[-1]

    def refuse(self, found: str) -> NoReturn:
        self.fail("the pickle holds more than tensors", field="data.pkl", expected="a dict of tensors", found=found)

    def look_up(self, name: str) -> None:
        if name not in _GLOBALS:
            self.fail(
                "this pickle asks for code, which is never run",
                field="data.pkl",
                expected="torch tensors and OrderedDict",
                found=show(name.replace(" ", ".")),
            )
        self.stack.append(_Global(name))

    def append(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list):
            self.refuse("items added to something that is not a list")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            self.refuse("items added to something that is not a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                self.refuse(f"a key of type {type(key).__name__}")
            if key in target:
                self.fail("a name occurs twice", field="data.pkl", expected="unique names", found=show(key))
            target[key] = value

    def persistent(self, given: object) -> None:
        five: Any = given if isinstance(given, tuple) and len(given) == 5 and given[0] == "storage" else [None] * 5
        kind = five[1]
        storage = kind.name.removeprefix("torch ") if isinstance(kind, _Global) else None
        if storage not in STORAGES or not isinstance(five[2], str) or not _counts([five[4]]):
            self.refuse("a persistent id that is not a storage")
        self.made(StorageRef(STORAGES[str(storage)], five[2], five[4]))

    def reduce(self, function: object, arguments: object) -> None:
        name = function.name if isinstance(function, _Global) else ""
        if not isinstance(arguments, tuple):
            self.refuse("a call without arguments")
        if name == _DICT and not arguments:
            self.made({})
        elif name == _PARAMETER and len(arguments) == 3 and isinstance(arguments[0], TensorRef):
            self.stack.append(arguments[0])
        elif name == _TENSOR and len(arguments) in (6, 7):
            storage, offset, shape, strides = arguments[:4]
            sound = isinstance(storage, StorageRef) and _counts([offset])
            if not (sound and _counts(shape) and _counts(strides) and len(shape) == len(strides)):
                self.refuse("a tensor of bad shape")
            self.made(TensorRef(storage, offset, tuple(shape), tuple(strides)))
        else:
            self.refuse(f"a call of {show(name)}")


def _counts(values: object) -> bool:
    """Whether these are a few exact integers from 0 to 2^63 - 1."""
    few = values if isinstance(values, (tuple, list)) and len(values) <= 64 else (None,)
    return all(type(value) is int and 0 <= value < 1 << 63 for value in few)
