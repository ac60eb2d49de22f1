"""Which tokens count: the content of every assistant turn and its end-of-turn token, by each model's own template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from zen_mlx.base.load import load_tokenizer
from zen_mlx.data.examples import Example, parse_row
from zen_mlx.data.tokens import TokenRow, crop, tokenize
from zen_mlx.errors import DataError

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
)
SPACED = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} <|im_end|>\n{% endfor %}"
SHOUTING = "{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}"
REFUSING = "{{ raise_exception('roles must alternate: ' ~ messages[0].content) }}"
EMPTY = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"


def with_template(folder: Path, to: Path, template: str | None) -> Any:
    """The tokenizer of `folder` with another chat template."""
    to.mkdir()
    shutil.copy(folder / "tokenizer.json", to)
    shutil.copy(folder / "config.json", to)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    if template is not None:
        settings["chat_template"] = template
    (to / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(to)


@pytest.fixture(scope="module")
def smol(embedded_base: Path) -> Any:
    return load_tokenizer(embedded_base)


def conversation(*turns: tuple[str, str]) -> Example:
    return Example("rows.jsonl:1", messages=turns)


def pieces(tokenizer: Any, row: TokenRow) -> list[str]:
    """The supervised runs of a row, decoded."""
    runs: list[list[int]] = []
    before = False
    for token, counts in zip(row.ids, row.supervised, strict=True):
        if counts:
            if not before:
                runs.append([])
            runs[-1].append(token)
        before = counts
    return [tokenizer.decode(run) for run in runs]


def test_prompt_and_completion_through_the_real_template(smol: Any) -> None:
    (row,) = tokenize([parse_row({"prompt": "Why?", "completion": "Because 42."}, "r:1")], smol, 512)
    rendered = smol.apply_chat_template(
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because 42."}], tokenize=False
    )
    assert list(row.ids) == smol.encode(rendered, add_special_tokens=False)
    assert rendered.endswith("<|im_end|>\n")
    assert pieces(smol, row) == ["Because 42.<|im_end|>"]
    assert row.supervised[-1] is False, "not the newline behind the end of the turn"
    assert row.targets == len(smol.encode("Because 42.", add_special_tokens=False)) + 1


def test_many_turns_with_a_system_message(smol: Any) -> None:
    (row,) = tokenize(
        [
            conversation(
                ("system", "Be brief."), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "Grüße 🙂")
            )
        ],
        smol,
        512,
    )
    assert pieces(smol, row) == ["1<|im_end|>", "Grüße 🙂<|im_end|>"]
    assert "Be brief." in smol.decode(list(row.ids))


@pytest.mark.parametrize(
    "content", ["assistant\n1", "<|im_start|>assistant\n1", "1<|im_end|>\n<|im_start|>assistant\n1"]
)
def test_a_question_that_looks_like_a_header_is_not_learned(smol: Any, content: str) -> None:
    (row,) = tokenize([conversation(("user", content), ("assistant", "1"))], smol, 512)
    assert pieces(smol, row) == ["1<|im_end|>"]
    assert row.supervised.index(True) > len(row.ids) - 5


def test_the_same_answer_twice(smol: Any) -> None:
    (row,) = tokenize([conversation(("user", "a"), ("assistant", "a"), ("user", "a"), ("assistant", "a"))], smol, 512)
    assert pieces(smol, row) == ["a<|im_end|>", "a<|im_end|>"]


@pytest.mark.parametrize("answer", ["hi", "think", "\n", "/", "real answer", "\ue000private"])
def test_words_of_an_empty_thought_are_not_the_answer(tiny_model: Path, tmp_path: Path, answer: str) -> None:
    tokenizer = with_template(tiny_model, tmp_path / "t", THINKING)
    answer = answer if answer.strip() else "x" + answer
    (row,) = tokenize(
        [conversation(("user", "q"), ("assistant", "first"), ("user", "q"), ("assistant", answer))], tokenizer, 512
    )
    assert pieces(tokenizer, row) == ["first<|im_end|>", f"{answer}<|im_end|>"]


def test_a_template_that_trims_and_puts_a_space_before_the_end(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = with_template(tiny_model, tmp_path / "t", SPACED)
    (row,) = tokenize(
        [conversation(("user", "q"), ("assistant", "  yes \n"), ("user", "q"), ("assistant", "no"))], tokenizer, 512
    )
    assert pieces(tokenizer, row) == ["yes", "<|im_end|>", "no", "<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "words"),
    [(SHOUTING, "changes this turn"), (REFUSING, "refuses"), (EMPTY, "changes this turn"), (None, "no chat template")],
)
def test_templates_that_cannot_be_learned_from(
    tiny_model: Path, tmp_path: Path, template: str | None, words: str
) -> None:
    tokenizer = with_template(tiny_model, tmp_path / "t", template)
    with pytest.raises(DataError, match=words) as caught:
        tokenize([conversation(("user", "canary-7f3a"), ("assistant", "canary-7f3a x"))], tokenizer, 512)
    assert caught.value.path == "rows.jsonl:1"
    assert "canary" not in f"{caught.value} {caught.value.to_dict()}"


def test_windows_of_a_text_count_every_token_but_the_first_once(smol: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 9
    ids = smol.encode(text, add_special_tokens=False)
    for window in (8, 9, len(ids) - 1, len(ids), len(ids) + 1):
        rows = tokenize([Example("t", text=text)], smol, window)
        assert all(len(row.ids) <= window for row in rows)
        assert all(row.supervised == (False,) + (True,) * (len(row.ids) - 1) for row in rows)
        joined = list(rows[0].ids)
        for row in rows[1:]:
            assert row.ids[0] == joined[-1], "windows share one token"
            joined += row.ids[1:]
        assert joined == ids
        assert sum(row.targets for row in rows) == len(ids) - 1
    with pytest.raises(DataError, match="at least two tokens"):
        tokenize([Example("t", text="a")], smol, 8)


def test_crop_counts_what_is_cut_and_drops_what_has_nothing_left() -> None:
    fits = TokenRow((1, 2, 3), (False, True, True))
    cut = TokenRow((1, 2, 3, 4, 5), (False, False, True, True, True))
    lost = TokenRow((1, 2, 3, 4, 5), (False, False, False, False, True))
    rows, count = crop([fits, cut, lost], 3)
    assert rows == [fits, TokenRow((1, 2, 3), (False, False, True))]
    assert count == 2


CALLING = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if m.content or not loop.first %}{{ '\n' }}{% endif %}<tool_call>\n"
    "{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
)


def calling(content: str | None, weight: int = 1) -> Example:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "content": "blue"},
        {"role": "assistant", "content": "It is blue.", "weight": weight},
    ]
    return parse_row({"messages": messages, "tools": [{"type": "function", "function": {"name": "look"}}]}, "rows:1")


def test_tool_calls_are_learned_with_their_turn(embedded_base: Path, tmp_path: Path) -> None:
    tokenizer = with_template(embedded_base, tmp_path / "t", CALLING)
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call><|im_end|>'
    for content, said in ((None, ""), ("I look.", "I look.\n")):
        row = tokenize([calling(content)], tokenizer, 512)[0]
        assert pieces(tokenizer, row) == [said + call, "It is blue.<|im_end|>"]
        assert '"name": "look"' in tokenizer.decode(row.ids).partition("user")[0], "the tools are shown, not learned"
    assert pieces(tokenizer, tokenize([calling(None, weight=0)], tokenizer, 512)[0]) == [call]


def test_a_template_that_hides_tool_calls_is_named(smol: Any) -> None:
    with pytest.raises(DataError, match="does not show tool calls") as caught:
        tokenize([calling("I look.")], smol, 512)
    assert caught.value.path == "rows:1"
