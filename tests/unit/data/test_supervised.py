"""What is learned of a conversation whose template rewrites turns or refuses the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zen_mlx.data.examples import Example, parse_row
from zen_mlx.data.tokens import tokenize, tokenize_usable
from zen_mlx.errors import DataError

from .test_tokens import pieces, with_template

# Written here, after what the public templates of these models do with thoughts, systems and turns.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages if m.role == 'user' %}{% set ns.last = messages.index(m) %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.reasoning_content or '' %}{% if not thought and '</think>' in m.content %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% endif %}"
    "<|im_start|>assistant\n{% if loop.index0 > ns.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN35 = QWEN3.replace("%}<|im_start|>assistant\n{% endif %}", "%}<|im_start|>assistant\n<think>\n{% endif %}")
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>A</think>{{ m.content.split('</think>', 1)[-1] }}"
    "<|im_end|>"
    "{% else %}<|im_start|>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>A</think>{% endif %}"
)
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate: ' ~ m.content) }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
JOINING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}<|im_end|>\n{% endfor %}"
)
ONE = "<think>\ntwo and two\n</think>\n\n4"
TWO = "<think>\nthree and three\n</think>\n\n6"


@pytest.fixture
def of(embedded_base: Path, tmp_path: Path) -> Any:
    return lambda template: with_template(embedded_base, tmp_path / "t", template)


def thinking(**last: str) -> Example:
    turns = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": ONE},
        {"role": "user", "content": "3+3?"},
        {"role": "assistant", **last},
    ]
    return parse_row({"messages": turns}, "rows:1")


@pytest.mark.parametrize(
    ("template", "last"),
    [
        (QWEN3, f"{TWO}<|im_end|>"),
        (QWEN35, f"{TWO.removeprefix('<think>' + chr(10))}<|im_end|>"),
        (DEEPSEEK, f"{TWO}<|im_end|>"),
    ],
)
def test_the_last_turn_keeps_its_thoughts_and_earlier_ones_are_as_shown(of: Any, template: str, last: str) -> None:
    tokenizer = of(template)
    (row,) = tokenize([thinking(content=TWO)], tokenizer, 512)
    earlier, final = pieces(tokenizer, row)
    assert earlier.strip() == "4<|im_end|>"
    assert final == last
    assert "two and two" not in tokenizer.decode(row.ids)


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_of_their_own_field_are_shown_and_learned(of: Any, field: str) -> None:
    tokenizer = of(QWEN3)
    (row,) = tokenize([thinking(**{field: "three and three", "content": "6"})], tokenizer, 512)
    assert pieces(tokenizer, row) == ["4<|im_end|>", f"{TWO}<|im_end|>"]


def test_thoughts_that_a_template_never_shows_are_counted(embedded_base: Path) -> None:
    from zen_mlx.base.load import load_tokenizer

    found = tokenize_usable([thinking(reasoning_content="three", content="6")], load_tokenizer(embedded_base), 512)
    assert (len(found.rows), found.hidden.count, found.hidden.places) == (1, 1, ["rows:1"])


def test_refused_rows_are_counted_with_their_reason_and_the_rest_is_used(of: Any) -> None:
    user, answer = {"role": "user", "content": "canary-1"}, {"role": "assistant", "content": "canary-2"}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    rows: list[list[Any]] = [
        [user, answer],
        [{"role": "system", "content": "s"}, user, answer],
        [user, user, answer],
        [user, call, {"role": "tool", "content": "1"}, answer],
    ]
    examples = [parse_row({"messages": row}, f"rows:{n}") for n, row in enumerate(rows, 1)]
    found = tokenize_usable(examples, of(STRICT), 512)
    assert [example.source for example in found.examples] == ["rows:1"]
    assert len(found.rows) == 1
    assert {reason: each.places for reason, each in found.refused.items()} == {
        "the model's chat template takes no system message": ["rows:2"],
        "the model's chat template refuses turns that do not alternate": ["rows:3"],
        "the model's chat template refuses tools or tool calls": ["rows:4"],
    }
    assert "canary" not in f"{found.first_fault} {json.dumps(list(found.refused))}"


def test_the_last_turn_must_keep_its_words(of: Any) -> None:
    tokenizer = of("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}")
    with pytest.raises(DataError, match="changes this turn"):
        tokenize(
            [Example("r", messages=(("user", "q"), ("assistant", "one"), ("user", "q"), ("assistant", "two")))],
            tokenizer,
            99,
        )


def test_arguments_are_text_where_a_template_joins_them(of: Any) -> None:
    tokenizer = of(JOINING)
    call = {"function": {"name": "look", "arguments": '{"at": "sky"}'}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    (row,) = tokenize([parse_row({"messages": turns}, "r")], tokenizer, 512)
    assert pieces(tokenizer, row) == ['look {"at": "sky"}<|im_end|>']
