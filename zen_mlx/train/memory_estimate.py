"""Memory estimate of a run before a weight of its base is read, and the settings that fit if the chosen ones do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from ..adapter.layers import FAMILIES
from ..adapter.targets import is_quantized, target_layers, targets
from ..base.build import build
from ..base.pull import pull
from ..config import TrainOptions
from ..data.batches import batch_rows, packed_sizes
from ..data.loss import EVAL_TOKENS, chunk_labels
from ..data.tokens import TokenRow, crop
from ..errors import ConfigError, MemoryLimitError
from ..fsio import Json
from ..memory import Batch, MemoryEstimate, ModelShape, TrainedArrays, estimate, machine_limit
from ..memory.limits import CACHE_BYTES
from .gradients import transformer_layers
from .methods import method_of, with_method
from .trainable import QuantizationRamp, trainable_layers, trained_arrays

_MOST_ROWS = 10**6
"""Rows of a run whose batches are all looked at; of a longer one the longest rows are taken for the worst batch."""
_HEADS = ("n_heads", "num_heads", "num_attention_heads", "n_head")
_HALF = (mx.float16, mx.bfloat16)


def model_shape(model: nn.Module) -> ModelShape:
    """What `memory.estimate` needs to know of a model; no array of it is evaluated."""
    on_cpu = _on_cpu()
    unique = {
        id(value): value
        for _, module in model.named_modules()
        for value in module.values()
        if isinstance(value, mx.array)
    }
    shapes = targets(model)
    layers = transformer_layers(model)
    dense = all(not is_quantized(layer) and (on_cpu or _is_f32(layer)) for layer in target_layers(model).values())
    head = _vocabulary(model)
    return ModelShape(
        parameter_bytes=sum(
            value.size * (4 if on_cpu and value.dtype in _HALF else value.dtype.size) for value in unique.values()
        ),
        item_bytes=4 if on_cpu or dense else 2,
        layers=max(len(layers), 1),
        hidden=next(iter(shapes.values()))[-1] if shapes else 0,
        heads=_heads(model),
        width=_width(model, shapes),
        vocabulary=head,
        target_bytes=4 * sum(math.prod(shape) for shape in shapes.values()),
        dense=dense,
    )


def estimate_run(
    model: nn.Module, rows: list[TokenRow], held: list[TokenRow], options: TrainOptions, shape: ModelShape | None = None
) -> MemoryEstimate:
    """The plan of the run that `options` make of these rows (cropped to max_length here); nothing is evaluated."""
    shape = shape or model_shape(model)
    options = with_method(options, model)
    rows = crop(rows, options.max_length)[0] or rows[:1]
    batches = {Batch(*size) for step in _steps(rows, options) for size in packed_sizes(step, options.micro_tokens)}
    many = any(len(packed_sizes(step, options.micro_tokens)) > 1 for step in _steps(rows, options))
    training = TrainedArrays(
        trained_bytes=_trained_bytes(model, options),
        full=options.method == "sign",
        grad_checkpoint=bool(options.grad_checkpoint),
        sums=many,
        keeps_best=options.patience is not None,
        chunk=chunk_labels(model),
        merges=_on_cpu(),
        cache_bytes=0 if _on_cpu() else CACHE_BYTES,
    )
    return estimate(shape, training, sorted(batches), [Batch(*size) for size in packed_sizes(held, EVAL_TOKENS)])


@dataclass(frozen=True)
class FittedOptions:
    """A run against a limit. options: with gradient checkpoints where only they make it fit; others: settings that fit."""

    options: TrainOptions
    plan: MemoryEstimate
    limit_bytes: int
    source: str
    others: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the run stays below the limit."""
        return self.plan.total_bytes <= self.limit_bytes

    def check(self) -> TrainOptions:
        """The options; `MemoryLimitError` with the numbers and the settings that fit, where the run does not."""
        if not self.fits:
            raise MemoryLimitError(
                f"this run needs {_gb(self.plan.total_bytes)}, but only {_gb(self.limit_bytes)} may be used ({self.source})",
                field="memory_limit",
                expected=self.limit_bytes,
                found=self.plan.total_bytes,
                hint=f"these settings fit: {'; '.join(self.others)}",
            )
        return self.options


def fit_options(
    model: nn.Module, rows: list[TokenRow], held: list[TokenRow], options: TrainOptions, limit_bytes: int, source: str
) -> FittedOptions:
    """The run against the limit; with gradient checkpoints where only they make it fit and nobody said no."""
    shape = model_shape(model)
    found = estimate_run(model, rows, held, options, shape)
    if found.total_bytes > limit_bytes and options.grad_checkpoint is None:
        remade = replace(options, grad_checkpoint=True)
        other = estimate_run(model, rows, held, remade, shape)
        if other.total_bytes <= limit_bytes:
            return FittedOptions(remade, other, limit_bytes, source)
    if found.total_bytes <= limit_bytes:
        return FittedOptions(options, found, limit_bytes, source)
    fit = [text for text, way in cheaper_options(options) if _fits(model, rows, held, way, limit_bytes, shape)]
    if not fit:
        fit = [smallest_advice(shape)]
    return FittedOptions(options, found, limit_bytes, source, tuple(fit[:3]))


def cheaper_options(options: TrainOptions) -> Iterator[tuple[str, TrainOptions]]:
    """(what to type, the options it makes) of smaller runs, mildest first."""
    method = "" if options.method == "factor" else "--method factor "
    lengths = [length for length in (512, 256, 128) if length < options.max_length]
    if not options.grad_checkpoint:
        yield "--grad-checkpoint", replace(options, grad_checkpoint=True)
    for length in lengths:
        yield (
            f"--grad-checkpoint --max-length {length} --micro-tokens {length}",
            replace(options, grad_checkpoint=True, max_length=length, micro_tokens=length),
        )
    if method:
        factor = replace(options, method="factor", bits_per_weight=None, grad_checkpoint=True)
        yield f"{method}--grad-checkpoint", factor
        for length in lengths:
            text = f"{method}--grad-checkpoint --max-length {length} --micro-tokens {length}"
            yield text, replace(factor, max_length=length, micro_tokens=length)


def smallest_advice(shape: ModelShape) -> str:
    """What to do when no setting helps."""
    if shape.dense or shape.parameter_bytes > shape.target_bytes // 3:
        return "none with this base; 4-bit weights take less: zen models quantize NAME --bits 4"
    return "none with this base; use a smaller one"


def _fits(
    model: nn.Module,
    rows: list[TokenRow],
    held: list[TokenRow],
    options: TrainOptions,
    limit_bytes: int,
    shape: ModelShape,
) -> bool:
    try:
        return estimate_run(model, rows, held, options, shape).total_bytes <= limit_bytes
    except ConfigError:  # too few bits for so small a base
        return False


def _steps(rows: list[TokenRow], options: TrainOptions) -> Iterator[list[TokenRow]]:
    size = options.rows_of_step(len(rows))
    steps = options.step_count(len(rows))
    if steps * len(rows) > _MOST_ROWS:
        yield sorted(rows, key=lambda row: len(row.ids))[-size:]
        return
    for step in range(steps):
        yield batch_rows(rows, size, options.seed, step)


def _trained_bytes(model: nn.Module, options: TrainOptions) -> int:
    """Bytes of the arrays that the method trains, from the layers themselves: they are lazy until they are used."""
    method, share = method_of(options, model), QuantizationRamp()
    with trainable_layers(model, lambda name, base, shape: method.layer(name, base, shape, share)) as layers:
        return sum(array.size * 4 for array in trained_arrays(layers).values())


def _width(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> int:
    """w of all layers: outputs of every linear layer, inputs that are arrays of their own, normed queries and keys.

    Of experts, as many as a token is sent to.
    """
    modules = dict(model.named_modules())
    shared = {name: family[0] for family in FAMILIES for name in family}
    width, inputs = 0, set()
    for name, shape in shapes.items():
        parent, _, attribute = name.removesuffix(".weight").rpartition(".")
        times = _experts_per_token(modules, parent) if len(shape) == 3 else 1
        width += times * shape[-2]
        if (parent, shared.get(attribute, attribute)) not in inputs:
            inputs.add((parent, shared.get(attribute, attribute)))
            width += times * shape[-1]
        if (attribute, True) in (
            ("q_proj", hasattr(modules[parent], "q_norm")),
            ("k_proj", hasattr(modules[parent], "k_norm")),
        ):
            width += shape[-2]
    return width


def _experts_per_token(modules: Json, path: str) -> int:
    while path:
        path = path.rpartition(".")[0]
        for name in ("top_k", "num_experts_per_tok", "n_experts_per_tok"):
            if isinstance(value := getattr(modules.get(path), name, None), int):
                return value
    return 8


def _heads(model: nn.Module) -> int:
    found = [
        value
        for layer in transformer_layers(model)[:8]
        for _, module in layer.named_modules()
        for name in _HEADS
        if isinstance(value := getattr(module, name, None), int)
    ]
    return max(found, default=8)


def _vocabulary(model: nn.Module) -> int:
    sizes = [
        module["weight"].shape[0]
        for _, module in model.named_modules()
        if isinstance(module, nn.Embedding) or type(module).__name__ == "QuantizedEmbedding"
    ]
    return max(sizes, default=2**18)


def _on_cpu() -> bool:
    return mx.default_device().type == mx.DeviceType.cpu


def _is_f32(layer: nn.Module) -> bool:
    return layer["weight"].dtype == mx.float32


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


_FITTED_ROWS = 4000
"""Of more, the longest are looked at: they alone decide."""


def fit_run(
    base: str, rows: list[TokenRow], held: list[TokenRow], options: TrainOptions, limit_bytes: int | None = None
) -> FittedOptions:
    """The run of `options` against `limit_bytes` (None: the machine's); the base is fetched, not loaded."""
    limit, source = (limit_bytes, "the limit given") if limit_bytes is not None else machine_limit()
    return fit_options(build(pull(base)), _longest(rows), _longest(held), options, limit, source)


def _longest(rows: list[TokenRow]) -> list[TokenRow]:
    return rows if len(rows) <= _FITTED_ROWS else sorted(rows, key=lambda row: len(row.ids))[-_FITTED_ROWS:]
