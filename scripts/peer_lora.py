"""mlx-lm's LoRA and `zen train` side by side: the same base, rows, tokens and steps, files of the same size.

    .venv/bin/python scripts/peer_lora.py --methods factor:0.33 --steps 3
    .venv/bin/python scripts/peer_lora.py --methods factor:0.33 --rates 3e-5,1e-4,3e-4 --steps 12 --one-by-one --grad-checkpoint
    .venv/bin/python scripts/peer_lora.py --methods factor:0.33,factor:0.05,sign --steps 96 --one-by-one --grad-checkpoint \
        --reference-loss 3.7134

Ours is `create_profile`. Theirs is mlx-lm's own trainer on every linear layer: its step, its loss with the prompt
masked, Adam, warm-up for a twentieth and a cosine to a tenth, as ours. MLX keeps at most as much of freed arrays as
under ours: on a CPU its own default is what the machine has. An adapter is kept in 16 bits, half of what mlx-lm writes,
and its rank is the lowest that is not smaller than the profile. Each is a process of its own, so each peak is its own;
the two take their steps in turn, so that both meet the same machine, or with --one-by-one ours goes first, where the
memory does not hold both. --only-theirs leaves ours out, whose result is the same on every run. A step has the rows
that ours draws, padded to the longest as mlx-lm does; with --own-batches mlx-lm sorts its rows by length, as it does
alone. Both losses on --valid are `zen eval`'s, the adapter's after `zen profile import`; "own loss" is that of mlx-lm's
layers before it. Several --rates: each is trained, the first is timed beside ours.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from _turns import Member, in_turn, pause, report

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def ours(job: dict[str, Any]) -> None:
    import zen_mlx  # noqa: F401  before MLX: it brings the fast BLAS
    import mlx.core as mx  # isort: skip

    from zen_mlx.manager import ZenPersonalizationManager

    manager = ZenPersonalizationManager(job["model"], home=job["home"])
    manager.base  # noqa: B018  loaded before the first step is timed
    mx.reset_peak_memory()
    pause({"ready": True})

    def tell(event: Any) -> None:
        if hasattr(event, "quantized_share"):
            pause({"seconds": event.seconds, "peak": mx.get_peak_memory()})

    manager.create_profile(
        "ours", [Path(job["data"])], valid="none", steps=job["steps"], batch_size=job["rows"], method=job["method"],
        bits_per_weight=job["bits"], max_length=job["length"], on_event=tell,
    )  # fmt: skip


def theirs(job: dict[str, Any]) -> None:
    import zen_mlx  # noqa: F401  before MLX: it brings the fast BLAS
    import mlx.core as mx  # isort: skip
    import mlx.optimizers
    import numpy as np
    from mlx_lm.tuner import datasets, trainer
    from mlx_lm.tuner.utils import build_schedule, linear_to_lora_layers
    from mlx_lm.utils import load

    from zen_mlx.base.pull import pull
    from zen_mlx.data.batches import batch_rows
    from zen_mlx.data.examples import load_files
    from zen_mlx.data.loss import mean_loss
    from zen_mlx.data.tokens import crop, tokenize
    from zen_mlx.memory import bounded_cache

    folder, steps, rate, parts = Path(job["folder"]), job["steps"], job["rate"], job["accumulate"]
    model, tokenizer = load(str(pull(job["model"])))[:2]
    mx.random.seed(0)
    model.freeze()
    shape = {"rank": job["rank"], "scale": 20.0, "dropout": 0.0}
    linear_to_lora_layers(model, -1, shape)
    warmup = steps // 20
    plan = {"name": "cosine_decay", "warmup": warmup, "arguments": [rate, steps - warmup, rate / 10]}
    settings = trainer.TrainingArgs(
        batch_size=job["rows"] // parts, iters=steps * parts, grad_accumulation_steps=parts, steps_per_report=parts,
        steps_per_save=10**9, max_seq_length=job["length"], adapter_file=str(folder / "adapters.safetensors"),
        grad_checkpoint=job["grad_checkpoint"],
    )  # fmt: skip

    def same_batches(dataset: Any, batch_size: int, max_seq_length: int, **_: Any) -> Any:
        """The rows of each of our steps, padded and marked as mlx-lm does."""
        for part in range(steps * parts):
            rows = batch_rows(dataset, batch_size * parts, 0, part // parts)
            picked = rows[part % parts :: parts]
            width = min(1 + 32 * math.ceil(max(len(row.ids) for row in picked) / 32), max_seq_length)
            ids = np.zeros((len(picked), width), np.int32)
            for place, row in enumerate(picked):
                ids[place, : len(row.ids)] = row.ids
            marks = [[t for t, counts in enumerate(row.supervised) if counts] for row in picked]
            yield mx.array(ids), mx.array([[each[0], each[-1]] for each in marks])

    class Steps(trainer.TrainingCallback):
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            pause({"seconds": parts / info["iterations_per_second"], "peak": mx.get_peak_memory()})

    extra: dict[str, Any] = {}
    if job["own_batches"]:
        rows = [json.loads(line) for line in Path(job["data"]).read_text(encoding="utf-8").splitlines() if line.strip()]
        wanted = argparse.Namespace(mask_prompt=True)
        backend: Any = tokenizer  # of the wrapper create_dataset takes what a tokenizer has
        data: Any = datasets.CacheDataset(datasets.create_dataset(rows, backend, wanted))
    else:
        data, _ = crop(tokenize(load_files([Path(job["data"])]), tokenizer, job["length"]), job["length"])
        extra["iterate_batches"] = same_batches
    mx.reset_peak_memory()
    pause({"ready": True})
    optimizer = mlx.optimizers.Adam(learning_rate=build_schedule(plan))
    with bounded_cache():
        trainer.train(model, optimizer, data, None, settings, training_callback=Steps(), **extra)
    held = tokenize(load_files([Path(job["valid"])]), tokenizer, 2048)
    report({"own_loss": mean_loss(model, held).nats})
    arrays = mx.load(settings.adapter_file)
    assert isinstance(arrays, dict)
    adapter = {name: array.astype(mx.float16) for name, array in arrays.items()}
    mx.eval(adapter)
    mx.save_safetensors(settings.adapter_file, adapter)
    config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": shape}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def main(wanted: argparse.Namespace) -> None:
    from zen_mlx.adapter.targets import targets
    from zen_mlx.eval.report import evaluate
    from zen_mlx.manager import ZenPersonalizationManager

    lines, rates = [], [float(rate) for rate in wanted.rates.split(",")]
    common = {
        name: getattr(wanted, name)
        for name in ("model", "steps", "rows", "length", "own_batches", "accumulate", "grad_checkpoint")
    }
    common |= {"data": str(wanted.data), "valid": str(wanted.valid)}
    for asked in wanted.methods.split(","):
        method, _, bits = asked.partition(":")
        with tempfile.TemporaryDirectory() as place:
            manager = ZenPersonalizationManager(wanted.model, home=place)
            shapes = list(targets(manager.model).values())
            weights = sum(math.prod(shape) for shape in shapes)
            size = float(bits or 1.05) * weights / 8
            rank = math.ceil(size / sum(2 * sum(shape[-2:]) for shape in shapes))
            job = {"kind": "ours", "method": method, "bits": float(bits) if bits else None, "home": place, **common}
            members = {} if wanted.only_theirs else {"ours": Member(job)}
            for rate in rates:
                (folder := Path(place) / f"lora-{rate:g}").mkdir()
                members[folder.name] = Member(
                    {"kind": "lora", "rank": rank, "rate": rate, "folder": str(folder), **common}
                )
                now = list(members.values()) if rate == rates[0] else [members[folder.name]]
                for each in [[member] for member in now] if wanted.one_by_one else [now]:
                    in_turn(each)
                manager.import_profile(folder, folder.name)
            base, *results = (result["loss"] for result in evaluate(manager, wanted.valid, list(members))["results"])
            for (name, member), loss in zip(members.items(), results, strict=True):
                title, file = f"zen train, {asked}", manager.store.path(name)
                if name != "ours":
                    title, file = f"mlx-lm, rank {rank}, rate {name[5:]}", Path(place) / name / "adapters.safetensors"
                kept = f"{100 * (base - loss) / (base - wanted.reference_loss):.1f}" if wanted.reference_loss else ""
                lines.append(
                    f"| {title} | {file.stat().st_size} | {8 * file.stat().st_size / weights:.3f} | {loss:.4f} "
                    f"| {member.own_loss} | {kept} | {member.median_s:.2f} | {member.peak_bytes / 1e9:.2f} |"
                )
    print(f"base: {base:.4f}\n")
    print("| | file bytes | bits/weight | loss | own loss | retention % | s/step | peak GB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        job = json.loads(sys.argv[2])
        (ours if job["kind"] == "ours" else theirs)(job)
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--model", default="smollm2-135m")
        parser.add_argument("--data", type=Path, default=EXAMPLES / "cynic.train.jsonl")
        parser.add_argument("--valid", type=Path, default=EXAMPLES / "cynic.valid.jsonl")
        parser.add_argument(
            "--methods", "--roads", default="factor:0.33", help="factor:BITS or sign, several with commas"
        )
        parser.add_argument("--steps", type=int, default=3)
        parser.add_argument("--rows", type=int, default=16, help="rows of a step")
        parser.add_argument("--length", type=int, default=1024, help="most tokens of a row")
        parser.add_argument(
            "--rates", default="1e-4", help="mlx-lm's learning rates; the first one is timed beside ours"
        )
        parser.add_argument(
            "--own-batches", action="store_true", help="mlx-lm sorts the rows by length, as it does alone"
        )
        parser.add_argument(
            "--accumulate", type=int, default=1, help="mlx-lm computes a step's rows in so many batches: less memory"
        )
        parser.add_argument(
            "--grad-checkpoint", action="store_true", help="mlx-lm computes a layer's activations again going back"
        )
        parser.add_argument("--only-theirs", action="store_true", help="mlx-lm's LoRA alone")
        parser.add_argument("--one-by-one", action="store_true", help="one is done before the next begins: less memory")
        parser.add_argument(
            "--reference-loss", type=float, help="a full fine-tune's loss on --valid, for the retention"
        )
        wanted = parser.parse_args()
        if wanted.accumulate < 1 or wanted.rows % wanted.accumulate:
            parser.error(f"--accumulate: {wanted.rows} rows cannot be {wanted.accumulate} batches of the same size")
        main(wanted)
