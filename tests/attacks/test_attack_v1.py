"""One test per rejection of version 1, and the two look-alikes that share its magic."""

import struct
from pathlib import Path

import numpy as np
import pytest

from zen_mlx.errors import FormatError, UnsupportedFormat
from zen_mlx.format.read import read, read_header


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<I", len(raw)) + raw


def block(
    name: str | bytes = "a.weight",
    shape: tuple[int, ...] = (3, 5),
    bits: bytes = b"\x5a\x5a",
    scales: tuple[float, ...] = (0.5,),
    count: int | None = None,
) -> bytes:
    head = text(name) + struct.pack(f"<{len(shape) + 1}I", len(shape), *shape)
    return head + bits + struct.pack(f"<I{len(scales)}f", len(scales) if count is None else count, *scales)


def build(*blocks: bytes, model: str | bytes = "m", ratio: float = 10.0, count: int = 15, flags: int = 0) -> bytes:
    return (
        struct.pack("<8sII", b"BITDELTA", 1, flags) + text(model) + struct.pack("<fQ", ratio, count) + b"".join(blocks)
    )


def refuse(path: Path, data: bytes, kind: type[FormatError], word: str) -> None:
    path.write_bytes(data)
    for reader in (read, read_header):
        with pytest.raises(FormatError, match=word) as caught:
            reader(path)
        assert type(caught.value) is kind
        assert caught.value.path == str(path)
        assert None not in (caught.value.field, caught.value.expected, caught.value.found)


def test_the_starting_point_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    path.write_bytes(build(block()))
    profile = read(path)
    assert profile.tensors["a.weight"].parts[0].scales[0].item() == 0.5
    assert profile.base == {"verified": False}
    assert profile.sha256 is None
    assert profile.info == {"name": "m"}
    assert (profile.version, profile.target_count) == (1, 15)


ATTACKS: dict[str, tuple[bytes, str]] = {
    "no blocks": (build(count=0), "no blocks"),
    "model name is not UTF-8": (build(block(), model=b"\xff"), "UTF-8"),
    "ratio NaN": (build(block(), ratio=float("nan")), "compression ratio"),
    "ratio negative": (build(block(), ratio=-1.0), "compression ratio"),
    "ratio infinite": (build(block(), ratio=float("inf")), "compression ratio"),
    "another count": (build(block(), count=16), "number of elements"),
    "no name": (build(block(name="")), "name"),
    "a name twice": (build(block(), block(), count=30), "name"),
    "name is not UTF-8": (build(block(name=b"\xc3")), "UTF-8"),
    "long name": (build(block(name="x" * 2000)), "too long"),
    "no dimensions": (build(block(shape=())), "1 to 8"),
    "nine dimensions": (build(block(shape=(1,) * 9), count=1), "1 to 8"),
    "dimension 0": (build(block(shape=(0, 5))), "bad dimension"),
    "dimension 2^31": (build(block(shape=(1 << 31, 5))), "bad dimension"),
    "dimensions overflow": (build(block(shape=(2**31 - 1,) * 8)), "cut short"),
    "pad bit": (build(block(bits=b"\x5a\xda")), "pad bits"),
    "no scales": (build(block(scales=())), "number of scales"),
    "two scales": (build(block(scales=(0.5, 0.5))), "number of scales"),
    "2^32 - 1 scales": (build(block(count=2**32 - 1)), "number of scales"),
    "scales missing": (build(block(count=3)), "cut short"),
    "trailing bytes": (build(block(), b"\0\0"), "cut short"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_block(attack: str, tmp_path: Path) -> None:
    data, word = ATTACKS[attack]
    refuse(tmp_path / "x.bitdelta", data, FormatError, word)


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(3, 5), (15,)])
def test_scale(value: float, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    path.write_bytes(build(block(shape=shape, scales=(value,))))
    with pytest.raises(FormatError, match="bad scale"):
        read(path)


def test_look_alikes(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    reference = b'{"model_name": "m", "compression_ratio": 9.0}'
    data = struct.pack("<8sII", b"BITDELTA", 1, len(reference)) + reference + text("a") + text(b"blob")
    refuse(path, data, UnsupportedFormat, "reference code")
    rust = struct.pack("<8sII", b"BITDELTA", 1, 1) + text("a.weight") + struct.pack("<IQQf", 2, 3, 5, 0.5)
    refuse(path, rust, UnsupportedFormat, "another program")


def test_truncation_at_every_length(tmp_path: Path) -> None:
    # Shorter by a whole block is another valid file: version 1 has no length and no digest, but it has a count.
    data, path = build(block(), block(name="b", shape=(5,), bits=b"\1"), count=20), tmp_path / "x.bitdelta"
    path.write_bytes(data)
    assert list(read(path).tensors) == ["a.weight", "b"]
    with open(path, "r+b") as file:
        for length in reversed(range(len(data))):
            file.truncate(length)
            with pytest.raises(FormatError):
                read(path)


def test_narrow_rows_are_refused_before_they_grow(tmp_path: Path) -> None:
    rows = 16_000_000
    path = tmp_path / "x.bitdelta"
    path.write_bytes(build(block(shape=(rows, 1), bits=bytes(rows // 8)), count=rows))
    with pytest.raises(UnsupportedFormat, match="narrow"):
        read(path)


def test_incomplete_experts_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    blocks = [block(name=f"x.weight.{index}") for index in (0, 2)]
    blocks += [block(name=f"y.weight.{index}", shape=shape) for index, shape in ((0, (3, 5)), (1, (5, 3)))]
    blocks += [block(name=name) for name in ("z.weight", "z.weight.0", "v.weight.00")]
    path.write_bytes(build(*blocks, count=15 * 7))
    assert all(len(tensor.shape) == 2 for tensor in read(path).tensors.values())
    assert len(read(path).tensors) == 7


def test_experts_of_different_scales_are_lifted_to_the_richest(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    blocks = [
        block(name="x.weight.1", shape=(2, 200), bits=bytes(50), scales=(1.0, 2.0, 3.0, 4.0)),
        block(name="x.weight.0", shape=(2, 200), bits=bytes(50), scales=(0.5,)),
        block(name="x.weight.2", shape=(2, 200), bits=bytes(50), scales=(5.0, 6.0)),
    ]
    path.write_bytes(build(*blocks, count=1200))
    tensor = read(path).tensors["x.weight"]
    assert tensor.shape == (3, 2, 200)
    assert tensor.parts[0].scale == "block"
    wanted = [[[0.5, 0.5], [0.5, 0.5]], [[1, 2], [3, 4]], [[5, 5], [6, 6]]]
    np.testing.assert_array_equal(tensor.parts[0].scales[0], wanted)
