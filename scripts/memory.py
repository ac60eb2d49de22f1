"""Estimated against measured peak memory of training, each run in a process of its own.

    python scripts/memory.py                    the embedded base
    python scripts/memory.py --model 0.6b       random weights in the shape of a 0.6B Qwen3 (2.4 GB in f32)
    python scripts/memory.py --model small      random weights, seconds

A row: method, gradient checkpoints, rows x tokens of a micro-batch; estimate and mx.get_peak_memory() of two steps in MB, their
ratio, and the process's largest resident set.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import zen_mlx  # noqa: F401  before any mlx: it brings the fast BLAS

# layers, hidden, ffn, heads, kv heads, head_dim, vocabulary
SHAPES = {"0.6b": (28, 1024, 3072, 16, 8, 128, 151_936), "small": (6, 256, 768, 8, 4, 32, 20_000)}
SETTINGS = [(4, 128), (1, 512)]


def random_model(name: str) -> Any:
    """A Qwen3 with random f32 weights, none of them made yet."""
    import mlx.core as mx
    from mlx_lm.models import qwen3

    layers, hidden, ffn, heads, kv_heads, head_dim, vocabulary = SHAPES[name]
    mx.random.seed(0)
    return qwen3.Model(
        qwen3.ModelArgs(
            model_type="qwen3",
            hidden_size=hidden,
            num_hidden_layers=layers,
            intermediate_size=ffn,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=1e-6,
            vocab_size=vocabulary,
            max_position_embeddings=4096,
            rope_theta=1e6,
            tie_word_embeddings=True,
        )
    )


def build(name: str) -> Any:
    """The model, its arrays lazy."""
    if name in SHAPES:
        return random_model(name)
    from zen_mlx.base.build import build as build_folder
    from zen_mlx.base.pull import pull

    return build_folder(pull(name))


def measure(name: str, method: str, checkpoint: bool, rows: int, length: int, steps: int) -> dict[str, Any]:
    """One run in this process: the estimate, made before a weight is there, and the peak."""
    import mlx.core as mx
    import numpy as np

    from zen_mlx.config import TrainOptions
    from zen_mlx.data.tokens import TokenRow
    from zen_mlx.train.memory_estimate import estimate_run
    from zen_mlx.train.trainer import train

    model = build(name)
    vocabulary = model.args.vocab_size
    rng = np.random.default_rng(0)
    marks = (False,) * (length // 2) + (True,) * (length + 1 - length // 2)
    data = [TokenRow(tuple(int(t) for t in rng.integers(0, vocabulary, length + 1)), marks) for _ in range(rows)]
    options = TrainOptions(
        steps=steps, batch_size=rows, max_length=length + 1, method=method, grad_checkpoint=checkpoint
    )
    plan = estimate_run(model, data, [], options)
    assert mx.get_peak_memory() < 1e7, "the estimate made arrays"
    began = time.monotonic()
    mx.eval(model.parameters())
    train(model, data, options)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "model": name,
        "method": method,
        "grad_checkpoint": checkpoint,
        "rows": rows,
        "length": length,
        "estimated_bytes": plan.arrays_bytes,
        "measured_bytes": mx.get_peak_memory(),
        "resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "seconds": round(time.monotonic() - began, 1),
        "items": dict(plan.items),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", nargs=4, metavar=("METHOD", "CHECKPOINT", "ROWS", "LENGTH"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.only:
        method, checkpoint, rows, length = args.only
        print(json.dumps(measure(args.model, method, checkpoint == "1", int(rows), int(length), args.steps)))
        return
    if not args.json:
        print(
            "| method | checkpoints | micro-batch | estimated MB | measured MB | ratio | resident MB |\n|"
            + " --- |" * 7
        )
    found = []
    for method in ("factor", "sign"):
        for checkpoint in ("0", "1"):
            for rows, length in SETTINGS:
                only = ["--only", method, checkpoint, str(rows), str(length)]
                command = [sys.executable, __file__, "--model", args.model, "--steps", str(args.steps), *only]
                run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                found.append(run)
                if not args.json:
                    sizes = [run[key] / 1e6 for key in ("estimated_bytes", "measured_bytes", "resident_bytes")]
                    print(
                        f"| {method} | {'yes' if checkpoint == '1' else 'no'} | {rows} x {length} | {sizes[0]:.0f} "
                        f"| {sizes[1]:.0f} | {sizes[0] / sizes[1]:.2f} | {sizes[2]:.0f} |",
                        flush=True,
                    )
    if args.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
