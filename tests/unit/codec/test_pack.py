"""Signs as bits: layout, zero, pads."""

import numpy as np
import pytest

from zen_mlx.codec.pack import pack_signs, unpack_signs, words
from zen_mlx.errors import ConfigError


def test_layout_is_least_significant_bit_first() -> None:
    delta = np.full((1, 40), -1.0, dtype=np.float32)
    delta[0, [0, 5, 31, 33]] = 1.0
    assert pack_signs(delta).tolist() == [[1 | 1 << 5 | 1 << 31, 1 << 1]]


def test_zero_and_minus_zero_are_plus_one() -> None:
    packed = pack_signs(np.array([0.0, -0.0, -1e-30], dtype=np.float32))
    assert packed.tolist() == [0b011]
    assert unpack_signs(packed, 3).tolist() == [1.0, 1.0, -1.0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 8), (2, 3, 33), (4, 64)])
def test_round_trip_and_zero_pads(shape: tuple[int, ...], dtype: type) -> None:
    delta = np.random.default_rng(1).normal(size=shape).astype(dtype)
    packed = pack_signs(delta)
    assert packed.dtype == np.uint32
    assert packed.shape == (*shape[:-1], words(shape[-1]))
    np.testing.assert_array_equal(unpack_signs(packed, shape[-1]), np.where(delta >= 0, 1, -1))
    if shape[-1] % 32:
        assert not (packed[..., -1] >> np.uint32(shape[-1] % 32)).any()


def test_strided_input() -> None:
    delta = np.random.default_rng(2).normal(size=(70, 9)).astype(np.float32).T
    np.testing.assert_array_equal(pack_signs(delta), pack_signs(np.ascontiguousarray(delta)))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ConfigError):
        pack_signs(np.zeros((2, 0), dtype=np.float32))
    with pytest.raises(ConfigError):
        unpack_signs(np.zeros((2, 2), dtype=np.uint32), 32)
