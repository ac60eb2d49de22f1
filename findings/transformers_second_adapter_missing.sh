#!/usr/bin/env bash
# transformers 5.23.0 with peft 0.21.2: when `model.load_adapter` loads a second adapter, its report says that the weights of
# the first are MISSING and "were newly initialized". They were not touched. A reader who believes it thinks that only one
# adapter at a time can be used. Seen on Linux, Python 3.11.
# Fails when the report no longer says so, or when it has become true.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
python=$place/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
HF_HUB_OFFLINE=1 "$python" - "$place" >"$place/out" 2>"$place/err" <<'PY'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

place = sys.argv[1]
shape = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, vocab_size=64)
LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **shape)).save_pretrained(f"{place}/base")
config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
for name in ("one", "two"):
    get_peft_model(LlamaForCausalLM.from_pretrained(f"{place}/base"), config).save_pretrained(f"{place}/{name}")
model = LlamaForCausalLM.from_pretrained(f"{place}/base")
model.load_adapter(f"{place}/one", adapter_name="one")
before = {name: array.clone() for name, array in model.named_parameters() if ".one." in name}
model.load_adapter(f"{place}/two", adapter_name="two")
after = dict(model.named_parameters())
print("untouched" if before and all(torch.equal(before[name], after[name]) for name in before) else "changed")
PY
echo "first adapter: $(cat "$place/out"); the report of the second one: $(grep -o 'lora_A.one.weight | MISSING' "$place/err" || echo nothing)"
[ "$(cat "$place/out")" = untouched ] && grep -q 'lora_A.one.weight | MISSING' "$place/err"
