"""Changed and added rows of embeddings and heads on whole models, against the same arrays computed in NumPy."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import qwen3
from mlx_lm.utils import quantize_model

from zen_mlx.adapter.attach import Resident, attach, check, detach, switch
from zen_mlx.codec.parts import RowsPart, encode_sign
from zen_mlx.errors import TargetError
from zen_mlx.format.read import read_header
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write

VOCABULARY, HIDDEN = 128, 64
EMBEDDING, HEAD, INNER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"
MODES = ("merged", "unmerged")


def build(tied: bool, dtype: mx.Dtype = mx.float32, bits: int | None = None) -> nn.Module:
    mx.random.seed(3)
    model = qwen3.Model(
        qwen3.ModelArgs(
            model_type="qwen3", hidden_size=HIDDEN, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, rms_norm_eps=1e-6, vocab_size=VOCABULARY, rope_theta=1e4,
            max_position_embeddings=128, tie_word_embeddings=tied,
        )
    )  # fmt: skip
    model.set_dtype(dtype)
    if bits:
        model, _ = quantize_model(model, {}, group_size=32, bits=bits)
    mx.eval(model.parameters())
    return model


def rows(numbers: list[int], columns: int = HIDDEN, dtype: type = np.float16, seed: int = 0) -> RowsPart:
    values = np.random.default_rng(seed).standard_normal((len(numbers), columns)).astype(dtype)
    return RowsPart(np.array(numbers, "<u4"), values)


def profile_of(**tensors: DeltaTensor) -> Profile:
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return Profile(info={"name": "p"}, base={}, metrics={}, target_count=1, model_count=1, tensors=named)


def profile(tensors: dict[str, DeltaTensor]) -> Profile:
    return profile_of(**{name.replace(".", "__"): tensor for name, tensor in tensors.items()})


def put(model: nn.Module, name: str, part: RowsPart, count: int) -> None:
    module = model.model.embed_tokens if name == EMBEDDING else model.lm_head
    old = np.array(module.weight.astype(mx.float32))
    new = np.zeros((count, old.shape[1]), np.float32)
    new[: len(old)] = old
    new[part.rows] += part.values
    module.weight = mx.array(new).astype(module.weight.dtype)


def logits(model: nn.Module, ids: list[int]) -> np.ndarray:
    return np.array(model(mx.array([ids])).astype(mx.float32))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("count", [VOCABULARY, VOCABULARY + 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tied", [True, False])
def test_rows_change_and_add(tied: bool, mode: str, count: int, dtype: mx.Dtype) -> None:
    model, twin = build(tied, dtype), build(tied, dtype)
    part = rows([2, 5, count - 1])
    names = [EMBEDDING] if tied else [EMBEDDING, HEAD]
    tensors = {name: DeltaTensor((count, HIDDEN), (part,)) for name in names}
    for name in names:
        put(twin, name, part, count)
    before = {"embedding": model.model.embed_tokens.weight, **({} if tied else {"head": model.lm_head.weight})}
    kept = {key: np.array(value.astype(mx.float32)) for key, value in before.items()}
    base = logits(model, [1, 2, 5])
    attach(model, Resident.from_profile(profile(tensors)), mode)
    ids = [1, 2, 5, count - 1]
    found, wanted = logits(model, ids), logits(twin, ids)
    assert found.shape == (1, 4, count)
    assert np.array_equal(found, wanted)
    assert not np.array_equal(logits(model, [1, 2, 5])[..., :VOCABULARY], base)
    switch(model, None)
    assert np.array_equal(logits(model, [1, 2, 5]), base)
    detach(model)
    assert model.model.embed_tokens.weight is before["embedding"]
    assert tied or model.lm_head.weight is before["head"]
    for key, value in before.items():
        assert np.array_equal(np.array(value.astype(mx.float32)), kept[key])


@pytest.mark.parametrize("mode", MODES)
def test_rows_beside_a_sign_plane_and_on_a_layer(mode: str) -> None:
    model, twin = build(False), build(False)
    delta = np.random.default_rng(1).standard_normal((VOCABULARY + 2, HIDDEN)).astype(np.float32)
    sign, some = encode_sign(delta, "row", dtype="f32")[0], rows([0, VOCABULARY + 1])
    inner = rows([3, 4], seed=2)
    tensors = {
        EMBEDDING: DeltaTensor((VOCABULARY + 2, HIDDEN), (sign, some)),
        INNER: DeltaTensor((96, HIDDEN), (inner,)),
    }
    from zen_mlx.codec.parts import decode_all

    put(twin, EMBEDDING, RowsPart(np.arange(VOCABULARY + 2, dtype="<u4"), decode_all((sign, some), delta.shape)),
        VOCABULARY + 2)  # fmt: skip
    up = twin.model.layers[0].mlp.up_proj
    weight = np.array(up.weight)
    weight[inner.rows] += inner.values
    up.weight = mx.array(weight)
    attach(model, Resident.from_profile(profile(tensors)), mode)
    found, wanted = logits(model, [0, 7, VOCABULARY + 1]), logits(twin, [0, 7, VOCABULARY + 1])
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_a_written_file_is_checked_by_its_header(tmp_path) -> None:
    model = build(True)
    file = tmp_path / "x.bitdelta"
    write(profile({EMBEDDING: DeltaTensor((VOCABULARY + 1, HIDDEN), (rows([VOCABULARY]),))}), file)
    check(model, read_header(file).tensors)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (EMBEDDING, DeltaTensor((VOCABULARY - 1, HIDDEN), (rows([1]),))),
        (EMBEDDING, DeltaTensor((VOCABULARY + 1, HIDDEN + 1), (rows([1], HIDDEN + 1),))),
        (EMBEDDING, DeltaTensor((VOCABULARY + 1, HIDDEN), tuple(encode_sign(np.ones((VOCABULARY + 1, HIDDEN)), "row")))),
        (INNER, DeltaTensor((97, HIDDEN), (rows([96]),))),
    ],
    ids=["fewer rows", "wider", "more rows without a part of rows", "a layer that grows"],
)  # fmt: skip
def test_what_cannot_grow_is_refused(name: str, tensor: DeltaTensor) -> None:
    model = build(True)
    with pytest.raises(TargetError, match="wrong shape"):
        attach(model, Resident.from_profile(profile({name: tensor})))


def test_a_quantized_embedding_is_refused_with_the_cost() -> None:
    model = build(True, bits=4)
    tensors = {EMBEDDING: DeltaTensor((VOCABULARY, HIDDEN), (rows([1]),))}
    with pytest.raises(TargetError, match="cannot take a delta") as caught:
        attach(model, Resident.from_profile(profile(tensors)))
    assert "MB more" in str(caught.value.hint)
