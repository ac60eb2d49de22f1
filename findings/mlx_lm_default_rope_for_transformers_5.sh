#!/usr/bin/env bash
# mlx-lm 0.32.2 reads a Llama folder's config.json that transformers 5.23.0 has written, and builds the model with the rope
# base 10000, whatever the folder says: transformers 5 keeps `rope_theta` inside `rope_parameters`, and mlx-lm looks for it
# at the top, where its absence means the default. No error, no warning; the answers are merely worse.
# Seen on Linux, Python 3.11. Fails when mlx-lm builds the rope that was asked for, or refuses the folder.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
python=$place/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check "mlx[cpu]==0.32.4" mlx-lm==0.32.2 transformers==5.23.0
HF_HUB_OFFLINE=1 "$python" - "$place" >"$place/out" 2>"$place/err" <<'PY'
import json
import sys
from pathlib import Path

from mlx_lm.utils import _get_classes
from transformers import LlamaConfig

place = Path(sys.argv[1])
shape = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, vocab_size=64)
asked = {"rope_type": "default", "rope_theta": 500000.0}
LlamaConfig(num_hidden_layers=1, rope_parameters=asked, **shape).save_pretrained(place)
config = json.loads((place / "config.json").read_text())
model_class, arguments = _get_classes(config)
model = model_class(arguments.from_dict(config))
print(f"asked for {config['rope_parameters']['rope_theta']:.0f}, built {model.layers[0].self_attn.rope.base:.0f}")
PY
cat "$place/out"
[ "$(cat "$place/out")" = "asked for 500000, built 10000" ]
