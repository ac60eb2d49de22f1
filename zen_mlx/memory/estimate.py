"""Memory estimate: parameters + trained arrays + Adam moments + gradients + activations + logits, from shapes alone.

Everything but the activations is counted exactly. A layer's activations are counted in *widths*: w = sum over its linear
layers of the outputs, plus the inputs that are different arrays (queries, keys and values share theirs, gate and up
too). What MLX's gradient holds was fitted to random llama and Qwen3 models, CPU, f32 (docs/training.md, "Memory").

    tokens t = rows * length, scores s = rows * heads * length^2, both times the bytes of a number
    forward and backward      layers * (1.75 w t + s) kept, then the larger of logits and 2.5 s
    with gradient checkpoints layers * hidden * t kept, then the larger of logits and 1.8 * 1.75 w t + 4.5 s
    forward alone             the larger of logits and 1.2 w t + 1.6 s
    logits                    of one chunk: 3.3 times with their gradient, 1.2 times without

Attention makes its scores in training on the CPU and on Metal alike (MLX's fused kernel has no gradient there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..fsio import Json

KEPT, SCORES_BEYOND = 1.75, 2.5
REMADE, REMADE_SCORES = 1.8 * KEPT, 4.5
FORWARD, FORWARD_SCORES = 1.2, 1.6
LOGITS, LOGITS_FORWARD = 3.3, 1.2
PROGRAM_BYTES = 350 * 10**6
"""The process without its arrays: Python, MLX, tokenizer, libraries."""


@dataclass(frozen=True)
class ModelShape:
    """A base as it will be in memory.

    parameter_bytes: all arrays; item_bytes: of one number of an activation; width: w summed over the layers; vocabulary;
    target_bytes: 4 bytes for each element of the targets; dense: targets are f32 arrays, not 16-bit or packed.
    """

    parameter_bytes: int
    item_bytes: int
    layers: int
    hidden: int
    heads: int
    width: int
    vocabulary: int
    target_bytes: int
    dense: bool


@dataclass(frozen=True, order=True)
class Batch:
    """rows x length padded tokens, `labels` of them supervised."""

    rows: int
    length: int
    labels: int

    @property
    def tokens(self) -> int:
        """Positions computed."""
        return self.rows * self.length


@dataclass(frozen=True)
class TrainedArrays:
    """What is trained and how.

    trained_bytes: f32 latents or factors; full: they have the weights' own size; sums: a step has several micro-batches,
    so that gradients wait for the next; keeps_best: early stopping holds a second set of arrays; chunk: labels whose logits
    are alive at a time; merges: measuring the profile makes merged weights (CPU).
    """

    trained_bytes: int
    full: bool
    grad_checkpoint: bool
    sums: bool
    keeps_best: bool
    chunk: int
    merges: bool
    cache_bytes: int = 0


@dataclass(frozen=True)
class MemoryEstimate:
    """The peaks of a run's phases. items: (name, bytes) of a training step; phases: (name, bytes)."""

    items: tuple[tuple[str, int], ...]
    phases: tuple[tuple[str, int], ...]
    micro_batch: Batch
    grad_checkpoint: bool
    cache_bytes: int

    @property
    def arrays_bytes(self) -> int:
        """Peak of MLX's arrays: what `mx.get_peak_memory()` will say."""
        return max(size for _, size in self.phases)

    @property
    def total_bytes(self) -> int:
        """What the process will need."""
        return self.arrays_bytes + self.cache_bytes + PROGRAM_BYTES

    def to_dict(self) -> Json:
        """The plan as JSON values."""
        return {
            "training_step": dict(self.items),
            "phases": dict(self.phases),
            "micro_batch": {
                "rows": self.micro_batch.rows,
                "length": self.micro_batch.length,
                "labels": self.micro_batch.labels,
            },
            "grad_checkpoint": self.grad_checkpoint,
            "arrays_bytes": self.arrays_bytes,
            "cache_bytes": self.cache_bytes,
            "program_bytes": PROGRAM_BYTES,
            "total_bytes": self.total_bytes,
        }


def estimate(
    shape: ModelShape, training: TrainedArrays, batches: Sequence[Batch], held: Sequence[Batch]
) -> MemoryEstimate:
    """The plan of a run over micro-batches `batches`, with looks at held-out micro-batches `held`."""
    worst = max(batches, key=lambda batch: sum(_backward(shape, training, batch)))
    kept, beyond = _backward(shape, training, worst)
    n = training.trained_bytes
    gradients = n * (2 if training.sums else 1)
    merged = 0
    if training.full and shape.dense and not training.grad_checkpoint:
        # W + Q(d) of every layer waits for the backward pass, while the gradients are not there yet.
        merged = max(0, shape.target_bytes - n) + n // 16
    items = [
        ("parameters", shape.parameter_bytes),
        ("latents" if training.full else "factors", n),
        ("optimizer moments", 2 * n),
        ("gradients", gradients + merged),
        ("activations kept", kept),
        ("logits, or one layer's backward pass", beyond),
    ]
    if training.keeps_best:
        items.append(("best state", n))
    step = sum(size for _, size in items)
    phases = [("training step", step)]
    if held:
        look = max(_forward(shape, training, batch) for batch in held)
        states = n * (4 if training.keeps_best else 3)
        phases += [
            ("held-out loss of the base", shape.parameter_bytes + look),
            ("held-out loss during training", shape.parameter_bytes + states + look),
            (
                "held-out loss of the profile",
                shape.parameter_bytes + states + look + (shape.target_bytes if training.merges else 0),
            ),
        ]
    return MemoryEstimate(tuple(items), tuple(phases), worst, training.grad_checkpoint, training.cache_bytes)


def _backward(shape: ModelShape, training: TrainedArrays, batch: Batch) -> tuple[int, int]:
    """(what waits for the backward pass, the most that is made beside it) of a forward and backward pass."""
    scores = batch.rows * shape.heads * batch.length**2 * shape.item_bytes
    wide = shape.width / max(shape.layers, 1) * batch.tokens * shape.item_bytes
    if training.grad_checkpoint:
        kept = float(shape.layers * shape.hidden * batch.tokens * shape.item_bytes)
        layer = REMADE * wide + REMADE_SCORES * scores
    else:
        kept = shape.layers * (KEPT * wide + scores)
        layer = SCORES_BEYOND * scores
    return int(kept), int(max(layer, LOGITS * 4 * shape.vocabulary * min(batch.labels, training.chunk)))


def _forward(shape: ModelShape, training: TrainedArrays, batch: Batch) -> int:
    """Arrays of a forward pass without gradient."""
    scores = batch.rows * shape.heads * batch.length**2 * shape.item_bytes
    wide = shape.width / max(shape.layers, 1) * batch.tokens * shape.item_bytes
    logits = LOGITS_FORWARD * 4 * shape.vocabulary * min(batch.labels, training.chunk)
    return int(max(FORWARD * wide + FORWARD_SCORES * scores, logits))
