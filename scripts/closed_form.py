"""One bit per weight without any training: how much of a full fine-tune each kind of scale keeps (docs/benchmarks.md).

    .venv/bin/python scripts/closed_form.py [--finetuned FOLDER] [--delta FILE.npz] [--data FILE.jsonl]
    .venv/bin/python scripts/closed_form.py --finetuned both --train examples/cynic.train.jsonl \
        --train examples/hacker.train.jsonl --passes 3 --make

FOLDER is a full fine-tune of the embedded base. When it does not exist it is made first: from --delta (blocks of 64
4-bit steps: `NAME|q` uint8 [N, K/64, 32], low nibble first, and `NAME|s` f16 [N, K/64]; delta = (nibble - 8) * s), else
by training every target weight in full precision for --passes over --train (two over examples/cynic.train.jsonl: about
20 minutes). --make ends there.
Then the fine-tune is compressed in closed form and measured on --data (default: examples/cynic.valid.jsonl).
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import zen_mlx  # noqa: F401  before MLX: it brings the fast BLAS
from zen_mlx import fsio
from zen_mlx.base.loaded import Base
from zen_mlx.config import BitDeltaConfig, TrainOptions
from zen_mlx.data.examples import load_files
from zen_mlx.data.tokens import crop, tokenize
from zen_mlx.eval.report import evaluate
from zen_mlx.events import Event, StepReport
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.train.trainer import train

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CODECS = [("tensor", 1), ("row", 1), ("col", 1), ("rowcol", 1), ("block", 1), ("rowcol", 2)]
BASE = "smollm2-135m"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def deltas_of(file: Path) -> dict[str, np.ndarray]:
    """The delta of every target in a file of 4-bit blocks."""
    stored = np.load(file)
    out = {}
    for key in stored.files:
        name, kind = key.split("|")
        if kind == "q":
            codes, steps = stored[key], stored[f"{name}|s"].astype(np.float32)
            nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], 64)
            out[name] = ((nibbles.astype(np.float32) - 8) * steps[..., None]).reshape(codes.shape[0], -1)
    return out


def fine_tune(files: list[Path], passes: float) -> dict[str, np.ndarray]:
    """The delta of a full fine-tune: AdamW 5e-5, betas 0.9 and 0.95, clip 1, cosine, batches of 16."""
    base = Base.load(BASE)
    config = BitDeltaConfig(straight_through=False, delta_regularization=0.0, sparsity_penalty=0.0)
    options = TrainOptions(config=config, epochs=passes)
    examples = load_files(files)
    rows, _ = crop(tokenize(examples, base.tokenizer, options.max_length), options.max_length)

    def tell(event: Event) -> None:
        if isinstance(event, StepReport):
            say(f"step {event.step}/{event.steps}: loss {event.loss:.4f}")

    result = train(base.model, rows, options, on_event=tell)
    return {name: np.array(latent) for name, latent in result.latents.items()}


def write_model(folder: Path, base_folder: Path, deltas: dict[str, np.ndarray]) -> None:
    """The base with `deltas` added, as a model folder."""
    with fsio.publish(folder, folder=True) as temporary:
        for file in base_folder.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, temporary)
        weights = load_file(base_folder / "model.safetensors")
        weights |= {name: weights[name] + delta for name, delta in deltas.items()}
        save_file(weights, temporary / "model.safetensors", metadata={"format": "mlx"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetuned", type=Path, default=Path("cynic-finetune"))
    parser.add_argument("--delta", type=Path)
    parser.add_argument("--train", type=Path, action="append", metavar="FILE")
    parser.add_argument("--passes", type=float, default=2.0)
    parser.add_argument("--make", action="store_true", help="make the fine-tune and end")
    parser.add_argument("--data", type=Path, default=EXAMPLES / "cynic.valid.jsonl")
    arguments = parser.parse_args()
    files = arguments.train or [EXAMPLES / "cynic.train.jsonl"]
    if not arguments.finetuned.exists():
        say(f"making the full fine-tune {arguments.finetuned}")
        deltas = deltas_of(arguments.delta) if arguments.delta else fine_tune(files, arguments.passes)
        write_model(arguments.finetuned, ZenPersonalizationManager(BASE).base.info.path, deltas)
    if arguments.make:
        return
    with tempfile.TemporaryDirectory() as home:
        manager = ZenPersonalizationManager(BASE, home=home)
        made = {}
        for scale, planes in CODECS:
            name = f"{scale}-{planes}"
            say(f"compressing: {name}")
            made[name] = manager.compress_profile(name, str(arguments.finetuned), scale=scale, planes=planes)
        say("measuring")
        report = evaluate(manager, arguments.data, list(made), reference=str(arguments.finetuned))
    print("| codec | bits/weight | file MB | loss | retention % |\n| --- | --- | --- | --- | --- |")
    print(f"| base | | | {report['results'][0]['loss']:.4f} | 0 |")
    for row in report["results"][1:]:
        size = made[row["profile"]]
        numbers = (
            f"{size.bits_per_weight:.3f} | {size.file_bytes / 1e6:.2f} | {row['loss']:.4f} | {row['retention']:.1f}"
        )
        print(f"| {row['profile']} | {numbers} |")
    print(f"| full fine-tune | | | {report['reference']['loss']:.4f} | 100 |")


if __name__ == "__main__":
    main()
