"""Our exports in PEFT and transformers: the same greedy tokens?

    scripts/peers                                            makes the environment and runs this
    .venv/bin/python scripts/peer_peft.py --peers .peers/bin/python

Each factor profile is exported with `zen profile export --format peft` and read twice over the same base in f32, by PEFT's
`PeftModel` and by transformers' `load_adapter`, all profiles on one model, switched between the prompts. A profile that is
no factor goes as `--format hf`, base and profile in one checkpoint, and is read by transformers. Ours are the engine's greedy
tokens with the profile attached, on the same token ids.

"log p": the largest difference of a token's log-probability, up to where an answer differs; the exit code is 1 where it is
--gap or more, for a scale that is a little wrong changes few greedy tokens. At the first token that differs, our two
likeliest are compared: they are a near tie, or the exit code is 1. "changed": answers that are not the bare base's, so that
an adapter that does nothing is noticed. PEFT runs in a process of the environment --peers, without network.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

Answer = list[tuple[int, float]]
"""Tokens, each with its log-probability."""

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROMPTS = (
    "Define: patience",
    "What is the capital of France?",
    "Write a function that reverses a list.",
    "How do I boil an egg?",
    "Why is the sky blue?",
    "Tell me a short story about a lighthouse.",
    "What should I do on a rainy Sunday?",
    "Explain what a hash table is.",
)


def ours(
    manager: Any, profile: str | None, prompts: list[list[int]], most: int
) -> tuple[list[Answer], list[list[float]]]:
    """(the greedy answer to each prompt, and for each of its tokens the gap between it and the second one)."""
    from zen_mlx.config import Sampling
    from zen_mlx.engine.batch import Batch
    from zen_mlx.engine.prompt_cache import PromptCaches
    from zen_mlx.engine.request import Request

    model = manager.activate_profile(profile) if profile else manager.model
    batch = Batch(model, manager.tokenizer, streams=len(prompts), caches=PromptCaches(0))
    asked = [Request(ids, sampling=Sampling(most, 0.0, seed=0), top_logprobs=2) for ids in prompts]
    rows = [batch.add(request) for request in asked]
    found: dict[int, list[Any]] = {id(row): [] for row in rows}
    while len(batch):
        for row, piece in batch.step():
            found[id(row)] += piece.logprobs
    if profile:
        manager.deactivate()
    answers = [[(each.token, each.logprob) for each in found[id(row)]] for row in rows]
    return answers, [[each.top[0].logprob - each.top[1].logprob for each in found[id(row)]] for row in rows]


def export(manager: Any, name: str, place: Path) -> tuple[str, Path]:
    """(format, folder): an adapter where that is exact, else a checkpoint."""
    from zen_mlx.errors import ConfigError

    for form in ("peft", "hf"):
        try:
            manager.export_profile(name, place / f"{name}-{form}", format=form)
        except ConfigError:
            continue
        return form, place / f"{name}-{form}"
    raise AssertionError("every profile can be a checkpoint")


def theirs(job: dict[str, Any]) -> None:
    """In the environment of the peers: one line of JSON, (reader, profile, greedy answers), for each."""
    torch, transformers, peft = (import_module(name) for name in ("torch", "transformers", "peft"))
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it calls every adapter but the newest missing
    torch.set_num_threads(1)  # more threads have too little to do here, and wait for each other on a busy machine
    adapters = {name: folder for name, (form, folder) in job["folders"].items() if form == "peft"}
    merged = {name: folder for name, (form, folder) in job["folders"].items() if form == "hf"}

    def load(folder: str) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def greedy(model: Any) -> list[Answer]:
        out = []
        for ids in job["prompts"]:
            made = model.generate(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False, max_new_tokens=job["tokens"], eos_token_id=job["eos"], pad_token_id=job["eos"][0],
                return_dict_in_generate=True, output_logits=True,
            )  # fmt: skip
            tokens = made.sequences[0, len(ids) :].tolist()
            logprobs = torch.cat(made.logits).log_softmax(-1)
            out.append([(token, float(row[token])) for token, row in zip(tokens, logprobs, strict=True)])
        return out

    def tell(reader: str, profile: str, answers: list[Answer]) -> None:
        print(json.dumps([reader, profile, answers]), flush=True)

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    tell(versions, "", [])
    with torch.inference_mode():
        tell("transformers", "", greedy(load(job["base"])))
        if adapters:
            model = load(job["base"])
            for name, folder in adapters.items():
                model.load_adapter(folder, adapter_name=name)
            for name in adapters:
                model.set_adapter(name)
                tell("load_adapter", name, greedy(model))
            first, *rest = adapters
            wrapped = peft.PeftModel.from_pretrained(load(job["base"]), adapters[first], adapter_name=first)
            for name in rest:
                wrapped.load_adapter(adapters[name], adapter_name=name)
            for name in adapters:
                wrapped.set_adapter(name)
                tell("PeftModel", name, greedy(wrapped))
        for name, folder in merged.items():
            tell("transformers", name, greedy(load(folder)))


def compared(wanted: list[Answer], gaps: list[list[float]], found: list[Answer]) -> tuple[int, float, list[float]]:
    """(equal answers, largest difference of a log-probability, our gap at the first other token of each other answer).

    The gap is infinite where one answer goes on after the other's end.
    """
    equal, largest, ties = 0, 0.0, []
    for one, gap, other in zip(wanted, gaps, found, strict=True):
        pairs = list(zip(one, other, strict=False))
        same = next((at for at, (a, b) in enumerate(pairs) if a[0] != b[0]), len(pairs))
        largest = max([largest, *(abs(a[1] - b[1]) for a, b in pairs[:same])])
        if len(one) == len(other) == same:
            equal += 1
        else:
            ties.append(gap[same] if same < len(pairs) else math.inf)
    return equal, largest, ties


def main(wanted: argparse.Namespace) -> int:
    import zen_mlx  # noqa: F401  before MLX: it brings the fast BLAS
    from zen_mlx.base.pull import pull
    from zen_mlx.engine.decoding import prompt_ids
    from zen_mlx.manager import ZenPersonalizationManager

    with tempfile.TemporaryDirectory() as place:
        manager = ZenPersonalizationManager("smollm2-135m", home=place)
        prompts = [prompt_ids(manager.tokenizer, text) for text in PROMPTS]
        names = [manager.import_profile(file) for file in wanted.profile]
        folders = {name: export(manager, name, Path(place)) for name in names}
        expected = {name: ours(manager, name or None, prompts, wanted.tokens) for name in ["", *names]}
        job = {
            "base": str(pull(manager.model_name)), "folders": {name: (form, str(at)) for name, (form, at) in folders.items()},
            "prompts": prompts, "tokens": wanted.tokens, "eos": sorted(manager.tokenizer.eos_token_ids),
        }  # fmt: skip
        command = [str(wanted.peers), __file__, "--theirs", json.dumps(job)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        lines = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    (versions, *_), *results = [json.loads(line) for line in lines.splitlines()]
    return min(1, report(versions, results, expected, wanted))


def report(versions: str, results: list[Any], expected: dict[str, Any], wanted: argparse.Namespace) -> int:
    """Print the table; how many lines of it are wrong."""
    print(f"{versions}; {len(PROMPTS)} prompts, {wanted.tokens} greedy tokens each, f32 on the CPU\n")
    print("| profile | read by | equal answers | log p | changed | gap where one differs |\n|" + " --- |" * 6)
    bare = [[token for token, _ in answer] for answer in expected[""][0]]
    wrong = 0
    for reader, name, found in results:
        answers, gaps = expected[name]
        equal, largest, ties = compared(answers, gaps, found)
        changed = sum([token for token, _ in one] != two for one, two in zip(found, bare, strict=True))
        wrong += max([largest, *ties]) >= wanted.gap or (bool(name) and not changed)
        shown = ", ".join(f"{tie:.1e}" for tie in ties)
        print(f"| {name or '(base)'} | {reader} | {equal} of {len(found)} | {largest:.1e} | {changed} | {shown} |")
    print(f"\n{wrong} readers answer otherwise" if wrong else "\nthe same greedy tokens everywhere, but for near ties")
    return wrong


if __name__ == "__main__":
    if sys.argv[1:2] == ["--theirs"]:
        theirs(json.loads(sys.argv[2]))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--peers", type=Path, required=True, help="a Python with torch, transformers and PEFT")
        parser.add_argument("--profile", type=Path, action="append", help="a .bitdelta file (all of examples/)")
        parser.add_argument("--tokens", type=int, default=32, help="greedy tokens of each prompt")
        parser.add_argument("--gap", type=float, default=1e-3, help="of log-probabilities: less is a near tie")
        wanted = parser.parse_args()
        wanted.profile = wanted.profile or sorted(EXAMPLES.glob("*.bitdelta"))
        sys.exit(main(wanted))
