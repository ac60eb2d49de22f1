"""Settings on the command line: every option's help, default and bounds are those of its dataclass, and each one arrives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from zen_mlx.cli import _model
from zen_mlx.cli.main import app, main
from zen_mlx.config import BitDeltaConfig, CompressOptions, Sampling, ServeOptions, TrainOptions, settings_of

ROWS = str(Path(__file__).parents[3] / "examples" / "cynic.valid.jsonl")
NO_BASE = ["-m", "no-such-model"]  # a bad value that gets through must not train anything
COMMANDS = {
    "train": (["train", ROWS, "--profile", "x", *NO_BASE], (TrainOptions, BitDeltaConfig)),
    "compress": (["compress", "nowhere", "--profile", "x", *NO_BASE], (CompressOptions,)),
    "generate": (["generate", "hi", *NO_BASE], (Sampling,)),
    "chat": (["chat", *NO_BASE], (Sampling,)),
    "serve": (["serve", *NO_BASE], (ServeOptions,)),
}
PYTHON_ONLY = {"block", "only", "max_length"}  # of CompressOptions
KNOBS = {
    "block_size": (["--block-size", "64"], 64),
    "use_per_channel_scale": (["--no-per-channel-scale"], False),
    "straight_through": (["--no-straight-through"], False),
    "delta_regularization": (["--delta-regularization", "0.5"], 0.5),
    "sparsity_penalty": (["--sparsity-penalty", "0.25"], 0.25),
    "learning_rate_scale": (["--learning-rate-scale", "3"], 3.0),
    "warmup_steps": (["--warmup-steps", "7"], 7),
}


def _parameter(command: str, flag: str) -> Any:
    params = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return next(each for each in params if flag in each.opts)


def _options() -> list[tuple[str, type, str, str]]:
    """(command, owner, setting, option) of every setting that a command has."""
    found = []
    for command, (_, owners) in COMMANDS.items():
        for owner in owners:
            for name, each in settings_of(owner).items():
                if owner is not CompressOptions or name not in PYTHON_ONLY:
                    spelled = each.metadata["setting"].option or "--" + name.replace("_", "-")
                    found.append((command, owner, name, spelled.partition("/")[0]))
    return found


OPTIONS = _options()


def _bad(owner: type, name: str) -> list[str]:
    """What a person could type just outside the bounds of a setting, where the option takes a number."""
    each = settings_of(owner)[name]
    known, kind = each.metadata["setting"], str(each.type)
    if kind.startswith(("bool", "str")):
        return []
    step = 1 if kind.startswith("int") else 0.001
    bad: list[Any] = [max(known.choices) + 1] if known.choices else []
    bad += [] if known.least is None else [known.least - step]
    bad += [] if known.above is None else [known.above]
    bad += [] if known.most is None else [known.most + step]
    return [str(value) for value in bad] + (["nan"] if kind.startswith("float") else [])


BAD = [(*option, text) for option in OPTIONS for text in _bad(*option[1:3])]


@pytest.mark.parametrize(("command", "owner", "name", "flag", "text"), BAD, ids=str)
def test_a_value_out_of_bounds_is_told_by_the_name_of_its_option(
    command: str, owner: type, name: str, flag: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*COMMANDS[command][0], f"{flag}={text}"]
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"zen: error: {flag} must be .+ \(found [^;]+\)\n", err)
    if command in ("chat", "serve"):
        return
    assert main([*args, "--json"]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    error = json.loads(out)["error"]
    assert (error["type"], error["field"], error["option"]) == ("ConfigError", name, flag)
    assert error["message"] == f"{flag} must be {error['expected']}"
    assert error["found"] == ("nan" if text == "nan" else pytest.approx(float(text)))


def test_every_bounded_number_is_among_them() -> None:
    tested = {(command, name) for command, _, name, *_ in BAD}
    numbers = {
        (command, name)
        for command, owner, name, _ in OPTIONS
        if str(settings_of(owner)[name].type).startswith(("int", "float"))
    }
    assert tested == numbers


@pytest.mark.parametrize(("command", "owner", "name", "flag"), OPTIONS, ids=str)
def test_an_option_has_the_help_and_the_default_of_its_setting(command: str, owner: type, name: str, flag: str) -> None:
    option = _parameter(command, flag)
    each = settings_of(owner)[name]
    assert option.help.startswith(each.metadata["setting"].help)
    default = not each.default if name == "straight_through" else each.default
    if (command, name) == ("train", "epochs"):
        default = None  # --steps may stand in its place
    assert option.default == (None if default == () else default)
    if each.default not in (None, ()) and type(each.default) is not bool:
        shown = f"{each.default:g}" if isinstance(each.default, float) else each.default
        assert option.help.endswith(f" Default: {shown}.")


def test_a_sentence_of_its_own_keeps_it_and_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", ROWS, "--profile", "x", "--method", "sign", "--factor-scales"]) == 2
    assert "signs have scales anyway (option --factor-scales; expected method factor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["models", "quantize", "smollm2-135m", "--bits", "7"], "--bits"),
        (["profile", "export", "a", "b", "--rank", "1"], "--rank"),
        (["profile", "merge", "a", "b", "--as", "c", "--weights", "1,x"], "--weights"),
        (["eval", ROWS, "--plot", "losses.jpg"], "--plot"),
        (["train", ROWS, "--profile", "x", "--memory-limit", "much"], "--memory-limit"),
    ],
    ids=str,
)
def test_other_options_are_named_too(args: list[str], option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert f"option {option}; expected " in capsys.readouterr().err


@pytest.mark.parametrize("name", KNOBS)
def test_each_knob_of_the_whitepaper_reaches_the_manager(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def note(model: object, tell: object, config: BitDeltaConfig) -> None:
        given.append(config)
        raise typer.Exit

    monkeypatch.setattr(_model, "lazy_manager", note)
    words, value = KNOBS[name]
    assert main(["train", ROWS, "--profile", "x", *words]) == 0
    assert main(["train", ROWS, "--profile", "x"]) == 0
    assert given == [BitDeltaConfig(**{name: value}), BitDeltaConfig()]
    assert given[0] != given[1]


def test_all_knobs_of_the_whitepaper_are_in_the_run(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(KNOBS) == set(settings_of(BitDeltaConfig))
    words = [word for each, _ in KNOBS.values() for word in each]
    args = ["train", ROWS, "--profile", "x", "-m", str(tiny_model), "--steps", "1", "--valid", "none", "--json"]
    assert main([*args, "--batch-size", "2", "--distill-steps", "1", "--no-report", *words]) == 0
    log = Path(json.loads(capsys.readouterr().out)["log"]).read_text().splitlines()
    assert json.loads(log[0])["options"]["config"] == {name: value for name, (_, value) in KNOBS.items()}


def test_the_knobs_have_a_heading_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    usual, heading, own = capsys.readouterr().out.partition("\nWhitepaper's knobs:\n")
    assert heading
    assert set(re.findall(r"^  (--[\w-]+)", own, re.MULTILINE)) == {
        "--block-size",
        "--per-channel-scale",
        "--no-straight-through",
        "--delta-regularization",
        "--sparsity-penalty",
        "--learning-rate-scale",
        "--warmup-steps",
    }
    assert "--straight-through" in own
    assert "--batch-size" in usual
