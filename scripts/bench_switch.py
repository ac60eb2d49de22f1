"""Switch times, load speed and peak memory (docs/benchmarks.md): prints one JSON document a mode.

.venv/bin/python scripts/bench_switch.py unmerged     a random 4-bit model of Qwen3-4B's dimensions, 5 GB of memory
.venv/bin/python scripts/bench_switch.py merged       the embedded base
"""

import json
import sys

import zen_mlx  # noqa: F401  before MLX: it brings the fast BLAS
from zen_mlx.base.load import load_model
from zen_mlx.base.pull import pull
from zen_mlx.bench.switch import measure_switch
from zen_mlx.bench.synthetic import quantized_qwen3


def main() -> None:
    if sys.argv[1:] == ["unmerged"]:
        result = measure_switch(quantized_qwen3, "unmerged")
    elif sys.argv[1:] == ["merged"]:
        folder = pull("smollm2-135m")
        result = measure_switch(lambda: load_model(folder), "merged")
    else:
        sys.exit(__doc__)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":  # the measurement starts processes of its own, which import this file
    main()
