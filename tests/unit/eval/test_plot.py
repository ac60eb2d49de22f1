"""Pictures: where each cell and point goes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zen_mlx.errors import InputError
from zen_mlx.eval.layer_errors import grid, plot_layers
from zen_mlx.eval.plot import RatePoint, plot_rate

PNG = b"\x89PNG\r\n"


def test_the_rate_plot_takes_any_points(tmp_path: Path) -> None:
    file = tmp_path / "rate.png"
    points = [
        RatePoint("sign", 1.03, 92.7, "row"),
        RatePoint("sign", 2.06, 97.8),
        RatePoint("LoRA (SVD, f16)", 0.37, 94.9, "r=8"),
        RatePoint("factor", 0.046, -3.0, "a label that is far too long to find a place anywhere in the picture" * 3),
    ]
    plot_rate(points, file, "title")
    assert file.read_bytes().startswith(PNG)
    plot_rate(points[:1], file)
    with pytest.raises(InputError, match="no points"):
        plot_rate([], file)
    with pytest.raises(InputError, match="positive"):
        plot_rate([RatePoint("sign", 0.0, 1.0)], file)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rate.png"]


def test_the_grid_puts_each_weight_in_its_cell() -> None:
    names, layers, values = grid(
        {
            "model.layers.1.mlp.down_proj.weight": 0.4,
            "model.layers.0.self_attn.q_proj.weight": 0.1,
            "model.layers.0.mlp.down_proj.weight": 0.2,
            "model.layers.10.self_attn.q_proj.weight": 0.3,
        }
    )
    assert names == ["self_attn.q_proj", "mlp.down_proj"]
    assert layers == [0, 1, 10]
    np.testing.assert_array_equal(values, [[0.1, 0.2], [np.nan, 0.4], [0.3, np.nan]])


def test_the_heat_map_has_a_panel_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "map.png"
    errors = {f"model.layers.{n}.mlp.switch_mlp.gate_proj.weight": n / 5 for n in range(4)}
    plot_layers({"one": errors, "two": errors, "three": errors, "four": errors}, file, "against x")
    assert file.read_bytes().startswith(PNG)
    with pytest.raises(InputError, match="nothing to draw"):
        plot_layers({"one": {}}, file)
