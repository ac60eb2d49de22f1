"""The published BitDelta on MLX, as a baseline: one sign a weight, one scale a matrix, the scales distilled on logits.

    .venv/bin/python scripts/peer_bitdelta.py cynic-finetune --steps 3
    .venv/bin/python scripts/peer_bitdelta.py cynic-finetune --data text.txt --valid examples/cynic.valid.jsonl
    .venv/bin/python scripts/peer_bitdelta.py cynic-finetune --ours 1.06 --ours 0.33

Liu et al., "BitDelta: Your Fine-Tune May Only Be Worth One Bit" (arXiv:2402.10193), written from the paper and from what
its release does, not from its text:

    delta = c * sign(W_tuned - W_base),   c = mean |W_tuned - W_base|   for every projection of attention and MLP
    then 200 steps on the mean squared difference of the logits, the c alone trained: batch 4, rows of at most 128 tokens,
    Adam with rate 1e-4 and a cosine to 0

Their text is C4; here it is --data (rows or plain text). Two things are in its favour: padding does not count (there it does),
and nothing else is lost: their file also holds embeddings, norms and head of the fine-tune in 16 bits, ours takes them
from the base. FINETUNED is a model folder. --ours B runs `zen compress --distill` on the same data beside it. Retention and
loss on --valid are `zen eval`'s. A learning rate of 1e-4 is large where deltas are small: --rate.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zen_mlx  # noqa: F401  before MLX: it brings the fast BLAS

import mlx.core as mx  # isort: skip
import mlx.nn as nn
import mlx.optimizers
import numpy as np

from zen_mlx.adapter.attach import model_count
from zen_mlx.adapter.targets import target_layers
from zen_mlx.base.load import load_model
from zen_mlx.base.pull import pull
from zen_mlx.codec.pack import pack_signs
from zen_mlx.codec.parts import SignPart
from zen_mlx.data.batches import batch_rows
from zen_mlx.data.examples import load_files
from zen_mlx.data.tokens import TokenRow, crop, tokenize
from zen_mlx.eval.report import evaluate
from zen_mlx.format.spec import DeltaTensor, Profile, now, profile_info
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.train.trainable import QuantizationRamp, TrainableLayer, trainable_layers

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


class OneScale(TrainableLayer):
    """y = base(x) + c * x S^T; c is trained, S = +-1 [N, K] is not."""

    def __init__(self, base: nn.Module, delta: mx.array) -> None:
        super().__init__(base, QuantizationRamp())
        self.c = mx.abs(delta).mean().reshape(1)
        self._signs = [mx.where(delta < 0, -1.0, 1.0)]
        mx.eval(self.c, self._signs)

    def __call__(self, x: mx.array) -> mx.array:
        return self._base[0](x) + self.c * (x @ self._signs[0].T)


def padded(rows: list[TokenRow]) -> tuple[mx.array, mx.array]:
    """(ids [B, T], the same shape: 1.0 where a row has a token)."""
    width = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), width), np.int32)
    counts = np.zeros((len(rows), width, 1), np.float32)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        counts[index, : len(row.ids)] = 1
    return mx.array(ids), mx.array(counts)


def bitdelta(model: Any, tuned: Any, rows: list[TokenRow], wanted: argparse.Namespace) -> dict[str, tuple[Any, float]]:
    """parameter name -> (packed signs, c) after the distillation of `tuned` into `model`."""
    theirs = target_layers(tuned)

    def make(name: str, base: nn.Module, shape: tuple[int, ...]) -> OneScale:
        if len(shape) != 2 or type(base) is not nn.Linear:
            raise SystemExit(f"{name}: dense matrices only")
        return OneScale(base, theirs[name].weight.astype(mx.float32) - base.weight.astype(mx.float32))

    def loss_of(ids: mx.array, counts: mx.array, wanted_logits: mx.array) -> mx.array:
        error = mx.square(model(ids).astype(mx.float32) - wanted_logits) * counts
        return error.sum() / (counts.sum() * error.shape[-1])

    with trainable_layers(model, make) as layers:
        gradient = nn.value_and_grad(model, loss_of)
        rate = mlx.optimizers.cosine_decay(wanted.rate, wanted.steps)
        optimizer = mlx.optimizers.Adam(learning_rate=rate, bias_correction=True)
        for step in range(wanted.steps):
            ids, counts = padded(batch_rows(rows, wanted.batch, 0, step))
            logits = tuned(ids).astype(mx.float32)
            loss, grads = gradient(ids, counts, logits)
            optimizer.update(model, grads)
            mx.eval(model.trainable_parameters(), optimizer.state, loss)
            if step % 20 == 0 or step == wanted.steps - 1:
                print(f"step {step + 1}/{wanted.steps}: {loss.item():.5f}", file=sys.stderr, flush=True)
        return {name: _stored(np.array(layer._signs[0]), layer.c.item()) for name, layer in layers.items()}


def _stored(signs: np.ndarray, c: float) -> tuple[Any, float]:
    """(packed signs, |c|): nothing keeps c from crossing zero, and c S = (-c) (-S)."""
    return pack_signs(signs if c >= 0 else -signs), abs(c)


def ours(wanted: argparse.Namespace, bits: float, home: str) -> tuple[str, float]:
    """(name, seconds) of `zen compress` in a home of its own."""
    name = f"ours-{bits:g}"
    command = [sys.executable, "-m", "zen_mlx", "compress", str(wanted.finetuned), "--profile", name, "--json"]
    command += ["-m", str(pull(wanted.base)), "--bits-per-weight", str(bits), "--distill", str(wanted.data)]
    command += ["--steps", str(wanted.our_steps)]
    done = subprocess.run(command, env={**os.environ, "ZEN_HOME": home}, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"zen compress: {done.stdout}")
    return name, float(json.loads(done.stdout)["seconds"])


def main(wanted: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as home:
        manager = ZenPersonalizationManager(wanted.base, home=home)
        base = manager.base
        tuned = load_model(wanted.finetuned)
        rows, _ = crop(tokenize(load_files([wanted.data]), base.tokenizer, wanted.length), wanted.length)
        began = time.monotonic()
        found = bitdelta(manager.model, tuned, rows, wanted)
        seconds = {"bitdelta": time.monotonic() - began}
        shapes = {name: tuple(layer.weight.shape) for name, layer in target_layers(tuned).items()}
        weights = sum(math.prod(shape) for shape in shapes.values())
        rest = model_count(tuned) - weights
        del tuned
        tensors = {
            name: DeltaTensor(shapes[name], (SignPart("tensor", None, bits, (np.array(c, np.float32),)),))
            for name, (bits, c) in found.items()
        }
        profile = Profile(
            info=profile_info("bitdelta", now(), "sign"),
            base=base.info.header(),
            metrics={},
            target_count=weights,
            model_count=model_count(manager.model),
            tensors=tensors,
        )
        manager.store.save("bitdelta", profile)
        for bits in wanted.ours:
            name, seconds[name] = ours(wanted, bits, home)
        report = evaluate(manager, wanted.valid, list(seconds), reference=str(wanted.finetuned))
        print("| | file bytes | bits/weight | loss | retention % | seconds |\n| --- | --- | --- | --- | --- | --- |")
        print(f"| base | | | {report['results'][0]['loss']:.4f} | 0 | |")
        for row in report["results"][1:]:
            name = row["profile"]
            size = manager.store.path(name).stat().st_size
            title = f"BitDelta, {wanted.steps} steps" if name == "bitdelta" else f"zen compress, {name[5:]}"
            print(
                f"| {title} | {size} | {8 * size / weights:.3f} | {row['loss']:.4f} | {row['retention']:.1f} "
                f"| {seconds[name]:.0f} |"
            )
        print(f"| full fine-tune | | | {report['reference']['loss']:.4f} | 100 | |")
        # Signs in words of 32 bits, an f32 a matrix, and 16 bits for every other parameter of the model.
        release = sum(-(-math.prod(shape) // 32) * 4 + 4 for shape in shapes.values())
        print(
            f"\ndiff.pt of the release: {release} bytes of signs and scales, {release + 2 * rest} with embeddings and norms"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finetuned", type=Path, metavar="FINETUNED")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--data", type=Path, default=EXAMPLES / "cynic.train.jsonl")
    parser.add_argument("--valid", type=Path, default=EXAMPLES / "cynic.valid.jsonl")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument(
        "--ours", type=float, action="append", default=[], metavar="BITS", help="zen compress too; repeatable"
    )
    parser.add_argument("--our-steps", type=int, default=24, help="of 16 rows each")
    main(parser.parse_args())
