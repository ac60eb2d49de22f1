"""`cd tests && python -m golden.record_runs` makes `golden/runs/` anew: only where the bytes of a profile are meant to change.

The base is random, the data are squares: what is recorded is what zen_mlx makes of them, not that it is good.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from golden.recorded import COMMANDS, HOME, RUNS, STOPS, Terminal, facts_of, made_with, make_room, run, zen


def _bf16(values: np.ndarray) -> np.ndarray:
    """f32 as the upper half of its bits, cut off."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _save_weights(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """bf16 safetensors, by hand: the same bytes with every version of every library."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    data = b""
    for name, values in arrays.items():
        raw = _bf16(values).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _make_bases() -> None:
    """Two layers of 32 numbers, one head of keys for two of queries; the fine-tune has other layers and norms."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 258,
        "max_position_embeddings": 256,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
    }
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])

    random = np.random.Generator(np.random.Philox(7))
    few = {"model.embed_tokens.weight": 0.25 * random.standard_normal((258, 32)), "model.norm.weight": np.ones(32)}
    sizes = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32)}
    sizes |= {"self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32)}
    sizes |= {"mlp.down_proj": (32, 48)}
    for layer in ("model.layers.0", "model.layers.1"):
        few |= {f"{layer}.{norm}_layernorm.weight": np.ones(32) for norm in ("input", "post_attention")}
        few |= {f"{layer}.{name}.weight": random.standard_normal(size) / 32**0.5 for name, size in sizes.items()}
    tuned = {}
    for name, values in few.items():
        thin = random.standard_normal((len(values), 2)) @ random.standard_normal((2, values.shape[-1]))
        change = 0.05 * (thin if values.ndim == 2 else thin[0]) + 0.01 * random.standard_normal(values.shape)
        tuned[name] = values if "embed" in name else values + change
    for folder, weights in ((RUNS / "few", few), (RUNS / "tuned", tuned)):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        _save_weights(folder / "model.safetensors", weights)


def _make_data() -> None:
    for name, count, first in (("train", 10, 1), ("valid", 4, 3)):
        rows = [
            {"prompt": f"{n} squared?", "completion": f"It is {n * n}."} for n in range(first, first + 3 * count, 3)
        ]
        (RUNS / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def record() -> None:
    """Make everything in `RUNS` anew."""
    shutil.rmtree(RUNS, ignore_errors=True)
    _make_bases()
    _make_data()
    kept = RUNS / "home"
    kept.mkdir()
    (kept / "config.toml").write_text('[models]\nfew = "~/few"\ntuned = "~/tuned"\n')
    with tempfile.TemporaryDirectory() as folder:
        room = make_room(Path(folder))
        facts = {}
        for name in COMMANDS:
            whole, report = run(room, name)
            (RUNS / f"{name}.bitdelta").write_bytes(whole)
            facts[name] = facts_of(report)
        document = {"made_with": made_with(), "runs": facts}
        (RUNS / "facts.json").write_text(json.dumps(document, indent=1) + "\n")
        _talk(room)
        _keep(room / "zen" / "digests.json", kept / "digests.json", room)
        for name in ("history", "logs/sign.jsonl"):
            shutil.copyfile(room / "zen" / name, kept / Path(name).name)
        shutil.copyfile(room / "chat.json", kept / "chat.json")
        for name in COMMANDS:
            done = zen(room, *COMMANDS[name].split(), "--profile", name, "--replace", stop=STOPS[name])
            assert done.returncode == 130, done.stderr
            shutil.copytree(room / "zen" / "runs" / name, RUNS / "interrupted" / name)
            _keep(room / "zen" / "runs" / name / "run.json", RUNS / "interrupted" / name / "run.json", room)


def _keep(path: Path, to: Path, room: Path) -> None:
    """A copy of a file that names absolute folders, with `HOME` in place of the home directory's."""
    to.write_text(path.read_text().replace(str(room), HOME))


def _talk(room: Path) -> None:
    """A conversation at the prompt: the history has two lines of it, and the second saves it."""
    with Terminal(room, "chat", "-p", "sign", "--temp", "0", "--max-tokens", "12", "--system", "Be brief.") as terminal:
        terminal.expect("sign>")
        terminal.send("5 squared?\r")
        terminal.expect("tokens/s")
        terminal.expect("sign>")
        terminal.send("/save chat.json\r")
        terminal.expect("saved to")
        terminal.expect("sign>")
        terminal.leave()


if __name__ == "__main__":
    record()
