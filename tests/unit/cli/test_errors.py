"""Every exception becomes one sentence and the right exit code; under --json one document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from zen_mlx import errors
from zen_mlx.cli import _errors
from zen_mlx.cli.main import main
from zen_mlx.paths import config_path

ROWS = Path(__file__).parents[3] / "examples" / "cynic.valid.jsonl"


def _subclasses(kind: type[errors.ZenError]) -> list[type[errors.ZenError]]:
    """Those that everything raises: the server's own become HTTP answers."""
    found = [kind, *(below for child in kind.__subclasses__() for below in _subclasses(child))]
    return [each for each in found if each.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", _subclasses(errors.ZenError), ids=lambda kind: kind.__name__)
def test_each_typed_error_is_a_sentence_with_its_fields(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    error = kind("it broke", path="/a/b", field="x", expected=1, found=2, hint="mend it")
    assert _errors.report(error, False) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "zen: error: /a/b: it broke (field x; expected 1; found 2)\n  hint: mend it\n"
    assert _errors.report(error, True) == kind.exit_code
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "error": {
            "type": kind.__name__,
            "message": "it broke",
            "path": "/a/b",
            "field": "x",
            "expected": 1,
            "found": 2,
            "hint": "mend it",
        }
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (typer.Exit(3), 3),
        (SystemExit(2), 2),
        (RuntimeError("boom\nand more"), 1),
        (FileNotFoundError(2, "No such file or directory", "x"), 1),
        (MemoryError(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert _errors.report(error, False) == code
    assert "Traceback" not in capsys.readouterr().err


def test_an_unexpected_error_is_one_sentence_and_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _errors.report(RuntimeError("boom\nand more"), False)
    first = capsys.readouterr().err
    assert first == "zen: error: unexpected RuntimeError: boom\n  hint: set ZEN_DEBUG=1 for the traceback\n"
    monkeypatch.setenv("ZEN_DEBUG", "1")
    _errors.report(RuntimeError("boom"), False)
    assert "RuntimeError: boom" in capsys.readouterr().err.splitlines()[0]


def test_control_characters_of_a_name_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _errors.report(errors.DataError("bad \x1b[31mname"), False)
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["nope"],
        ["generate"],
        ["generate", "hi", "--nope"],
        ["generate", "hi", "--max-tokens", "many"],
        ["generate", "hi", "--max-tokens", "0"],
        ["generate", "hi", "--temp", "-1"],
        ["generate", "hi", "--top-p", "0"],
        ["generate", "hi", "-p", "absent"],
        ["generate", "hi", "-m", "no-such-model"],
        ["train", "absent.jsonl", "--profile", "x"],
        ["train", "absent.jsonl"],
        ["compress", "x", "--profile", "y", "--scale", "diagonal"],
        ["profile", "show", "absent"],
        ["profile", "remove", "../../etc/passwd", "--yes"],
        ["profile", "merge", "a", "b", "--as", "c", "--weights", "1"],
        ["profile", "merge", "a", "b", "--as", "c", "--weights", "1,x"],
        ["inspect", "absent.bitdelta"],
        ["eval", "absent.jsonl"],
        ["models", "show", "no-such-model"],
        ["train", __file__, "--profile", "x"],
        ["train", str(ROWS), "--profile", "a/b"],
        ["train", str(ROWS), "--profile", "x", "--batch-size", "0"],
        ["train", str(ROWS), "--profile", "x", "--steps", "1", "--epochs", "1"],
        ["train", str(ROWS), "--profile", "x", "--learning-rate-scale", "0"],
        ["train", str(ROWS), "--profile", "x", "--resume"],
        ["train", str(ROWS), "--profile", "x", "--method", "lora"],
        ["eval", str(ROWS), "-p", "absent"],
        ["models", "quantize", "smollm2-135m", "--bits", "7"],
        ["serve", "--port", "70000"],
        ["serve", "--host", "0.0.0.0"],
        ["profile", "push", "x"],
    ],
    ids=lambda args: " ".join(args[:2] + [Path(arg).name for arg in args[2:]]),
)
def test_bad_input_exits_2_with_a_document_under_json(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("zen: error: ")
    assert main([*args, "--json"]) == 2
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {"error"}
    assert json.loads(out)["error"]["message"]


def test_a_bad_alias_is_an_error_of_the_list_too(capsys: pytest.CaptureFixture[str]) -> None:
    config_path().parent.mkdir(parents=True, exist_ok=True)
    config_path().write_text("[models]\nx = 4\n")
    assert main(["models", "list", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ConfigError"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_error_about_no_number_is_json(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    assert main(["train", str(ROWS), "--profile", "x", "--learning-rate-scale", value, "--json"]) == 2
    error = json.loads(capsys.readouterr().out, parse_constant=refuse)["error"]
    assert error["option"] == "--learning-rate-scale"


def test_a_dry_run_refuses_a_bad_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(ROWS), "--profile", "../x", "--dry-run", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "NameInvalidError"
