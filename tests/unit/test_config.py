"""A setting stands once: its default, bounds and help in `config`, and the command line has them from there."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer

from zen_mlx.cli.main import app, main
from zen_mlx.config import BitDeltaConfig, CompressOptions, Sampling, TrainOptions, settings_of
from zen_mlx.errors import ConfigError
from zen_mlx.paths import run_dir, zen_home
from zen_mlx.train import log

OWNERS = (BitDeltaConfig, TrainOptions, CompressOptions, Sampling)
SETTINGS = [(owner, name) for owner in OWNERS for name in settings_of(owner)]


def bad_values(owner: type, name: str) -> list[Any]:
    """Values just outside of what the setting allows."""
    field = settings_of(owner)[name]
    setting, kind = field.metadata["setting"], str(field.type).partition(" | ")[0]
    found: list[Any] = [["a list"]]
    if setting.choices:
        return [*found, max(setting.choices) + 1] if kind == "int" else [*found, "none of them"]
    if setting.least is not None:
        found.append(setting.least - (1 if kind == "int" else 1e-6))
    if setting.above is not None:
        found.append(setting.above)
    if setting.most is not None:
        found.append(setting.most + (1 if kind == "int" else 1e-6))
    if kind == "int":
        found += [1.5, True]
    if kind == "float":
        found += [math.nan, math.inf, "1"]
    return found


@pytest.mark.parametrize(("owner", "name"), SETTINGS, ids=lambda each: getattr(each, "__name__", each))
def test_what_is_out_of_bounds_is_refused_by_name(owner: type, name: str) -> None:
    for value in bad_values(owner, name):
        with pytest.raises(ConfigError) as caught:
            owner(**{name: value})
        assert caught.value.field == name
        assert caught.value.expected
        assert caught.value.found == value or value != value


@pytest.mark.parametrize("owner", OWNERS)
def test_the_bounds_themselves_are_allowed(owner: type) -> None:
    for name, field in settings_of(owner).items():
        setting = field.metadata["setting"]
        assert setting.help[0].isupper() or setting.help.startswith(("sign:", "factor:"))
        allowed = [*setting.choices, setting.least, setting.most, field.default]
        for value in [each for each in allowed if each is not None]:
            owner(**{name: value})


KNOBS = {
    "--block-size": ("block_size", 64),
    "--no-per-channel-scale": ("use_per_channel_scale", False),
    "--no-straight-through": ("straight_through", False),
    "--delta-regularization": ("delta_regularization", 0.5),
    "--sparsity-penalty": ("sparsity_penalty", 0.25),
    "--learning-rate-scale": ("learning_rate_scale", 0.75),
    "--warmup-steps": ("warmup_steps", 7),
}


def test_every_field_of_the_whitepaper_has_an_option() -> None:
    assert {name for name, _ in KNOBS.values()} == {field.name for field in dataclasses.fields(BitDeltaConfig)}


@pytest.mark.parametrize("option", KNOBS)
def test_a_knob_of_the_whitepaper_reaches_the_run(
    option: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's log and its run.json have what was typed, beside the other fields' defaults."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"say {i}", "completion": f"number {i}"}) + "\n" for i in range(4)))
    name, value = KNOBS[option]
    words = [option] if isinstance(value, bool) else [option, str(value)]
    args = ["train", str(rows), "--profile", "p", "-m", str(tiny_model), "--steps", "1", "--valid", "none"]
    assert main([*args, *words, "--distill-steps", "0", "--no-report", "--json"]) == 0
    capsys.readouterr()
    [start] = [entry for entry in log.read(zen_home() / "logs" / "p.jsonl") if entry["event"] == "start"]
    wanted = {**dataclasses.asdict(BitDeltaConfig()), name: value}
    assert start["options"]["config"] == wanted
    assert not run_dir(zen_home(), "p").exists()


@pytest.mark.parametrize(
    ("command", "words", "option"),
    [
        ("train", ["--block-size", "100"], "--block-size"),
        ("train", ["--learning-rate-scale", "0"], "--learning-rate-scale"),
        ("train", ["--steps", "0"], "--steps"),
        ("train", ["--checkpoint-every", "-1"], "--checkpoint-every"),
        ("train", ["--bits-per-weight", "9"], "--bits-per-weight"),
        ("compress", ["--planes", "5"], "--planes"),
        ("compress", ["--labels", "2"], "--labels"),
        ("generate", ["--temp", "11"], "--temp"),
        ("generate", ["--top-p", "0"], "--top-p"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_option(
    command: str, words: list[str], option: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["-m", str(tiny_model)]
    given = {
        "train": [__file__, "--profile", "p", *base],
        "compress": [str(tiny_model), "--profile", "p", *base],
        "generate": ["hello", *base],
    }
    assert main([command, *given[command], *words, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "ConfigError"
    assert error["expected"]
    assert main([command, *given[command], *words]) == 2
    assert option in capsys.readouterr().err


def test_defaults_of_the_command_line_are_those_of_the_settings() -> None:
    click = typer.main.get_command(app)
    for command, owner in (("generate", Sampling), ("compress", CompressOptions), ("train", TrainOptions)):
        params = {param.name: param for param in click.commands[command].params}  # type: ignore[attr-defined]
        known = [name for name in settings_of(owner) if name in params]
        assert len(known) >= 3
        for name in known:
            assert params[name].default in (settings_of(owner)[name].default, None), name
