"""Grammars: random walks through the tokens that they allow give JSON that fits, with the embedded base's own tokenizer."""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from few_layer_qwen3 import CALL, CALL_END, TEXT_END, TURN_END, VOCABULARY, save_tiny_qwen3
from jsonschema import Draft202012Validator
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_sampler

from zen_mlx.base.load import load_base, load_tokenizer
from zen_mlx.engine import schema_limits
from zen_mlx.engine.constraints import ConstrainedMatcher, Constraints, logits_processor
from zen_mlx.engine.request import Grammar
from zen_mlx.errors import InputError, ZenError

PADDED = 49152 + 100
TEXT: dict[str, Any] = {"type": "string"}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
    "required": ["value"],
    "additionalProperties": False,
}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": _object({"person": _object({"name": TEXT, "home": _object({"town": TEXT}, "town")}, "home")}, "person"),
    "enum": {"enum": ["red", "grün", 3, None, {"a": [1]}]},
    "ranges": _object(
        {
            "whole": {"type": "integer", "minimum": -7, "exclusiveMaximum": 12},
            "real": {"type": "number", "minimum": 0.25, "maximum": 3.5},
            "text": {"type": "string", "minLength": 2, "maxLength": 5},
        },
        *("whole", "real", "text"),
    ),
    "pattern": _object({"date": {"type": "string", "pattern": r"^\d{4}-[01]\d(-[0-3]\d)?$"}}, "date"),
    "arrays": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}, "minItems": 2},
    "tuple": {"type": "array", "prefixItems": [TEXT, {"type": "number"}], "items": False, "minItems": 1},
    "recursion": TREE,
    "const": _object({"kind": {"const": "point"}, "at": {"const": [1.5, "x", None]}}, "kind", "at"),
    "oneOf": {
        "oneOf": [
            _object({"kind": {"const": "circle"}, "radius": {"type": "number", "minimum": 0}}, "kind", "radius"),
            _object({"kind": {"const": "square"}, "side": {"type": "integer", "minimum": 1}}, "kind", "side"),
        ]
    },
    "anyOf and references": {
        "anyOf": [{"$ref": "#/$defs/one"}, {"type": "array", "items": {"$ref": "#/$defs/one"}, "maxItems": 2}],
        "$defs": {"one": {"anyOf": [{"type": "integer", "multipleOf": 5}, {"type": "null"}]}},
    },
    "optional": _object({"a": TEXT, "b": {"type": "boolean"}, "c": {"type": "null"}, "d": {"type": "integer"}}, "b"),
    "unicode": _object({"größe 尺寸 🎈": {"enum": ["klein", "小", '"\\\n']}, "é": TEXT}, "größe 尺寸 🎈", "é"),
    "additional": {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "minProperties": 2,
        "maxProperties": 3,
    },
}

REFUSED = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "colour"}, "Invalid type"),
    ({"$ref": "#/$defs/none"}, "does not exist"),
    ({"$ref": "https://example.com/other.json"}, "not present"),
    ({"type": "string", "format": "poem"}, "Unknown format"),
    ({"type": "string", "pattern": r"(a)\1"}, "backreferences"),
    ({"type": "string", "pattern": r"(?<=a)b"}, "look-around"),
    ({"not": {"type": "string"}}, "not"),
    ({"if": {"type": "string"}, "then": {}}, "if"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
    ({"type": "integer", "minimum": 5, "maximum": 2}, "Unsatisfiable"),
    ({"type": "string", "minLength": "long"}, "minLength"),
    ({"enum": []}, "Unsatisfiable"),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "Unsatisfiable"),
    ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
    ({"const": float("nan")}, "cannot be written"),
    ({"const": "\ud800"}, "hex escape"),
    ({"type": "number", "multipleOf": 1e-12, "maximum": 0.5}, "too many digits"),
    ({"type": "object", "properties": {f"p{number}": {} for number in range(550)}}, "too (many|complex|large)|max is"),
]


def _nest(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _chain(links: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(links)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{links}": TEXT}}


def _patterns(count: int) -> dict[str, Any]:
    return {"allOf": [{"type": "string", "pattern": f"^.*{chr(97 + number)}.*$"} for number in range(count)]}


def _each(count: int, schema: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": schema(number) for number in range(count)}}


TOO_LARGE = {
    "bytes": {"const": "x" * schema_limits.MOST_BYTES},
    "depth": _nest(schema_limits.MOST_DEPTH),
    "values": {"enum": list(range(schema_limits.MOST_VALUES))},
    "objects": {"anyOf": [{"const": number} for number in range(schema_limits.MOST_OBJECTS)]},
    "ranges": _each(schema_limits.MOST_EXPRESSIONS + 1, lambda number: {"type": "integer", "minimum": number}),
    "property patterns": {"patternProperties": {f"^k{number}x": {} for number in range(51)}},
    "references": _chain(200),
    "patterns together": _patterns(20),
    "patterns beside a choice": {"type": "string", "pattern": "^a", "anyOf": _patterns(12)["allOf"]},
    "multiples": {"type": "integer", "multipleOf": 99999999},
    "multiples together": {"allOf": [{"type": "integer", "multipleOf": each} for each in (97, 89, 83)]},
}
WITHIN = {
    "bytes": {"const": "x" * (schema_limits.MOST_BYTES - 200)},
    "depth": _nest(31),
    "values": {"enum": list(range(schema_limits.MOST_VALUES - 10))},
    "properties": _each(200, lambda number: TEXT),
    "ranges": _each(140, lambda number: {"type": "integer", "minimum": -(10**18) + number, "maximum": 10**18 - number}),
    "formats": _each(140, lambda number: {"type": "string", "format": "uri"}),
    "references": _chain(150),
    "multiples": {"type": "integer", "multipleOf": 9999},
    "many optional patterns": _each(
        100, lambda number: {"anyOf": [{"type": "string", "pattern": f"^{number}$"}, {"type": "null"}], "title": "t"}
    ),
}


@pytest.fixture(scope="module")
def tokenizer(embedded_base: Path) -> Any:
    return load_tokenizer(embedded_base)


@pytest.fixture(scope="module")
def constraints(tokenizer: Any) -> Constraints:
    return Constraints(tokenizer, PADDED)


@pytest.fixture(scope="module")
def closing(tokenizer: Any) -> Any:
    """bool [V]: tokens of closing characters only, which lead a walk to its end."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    marks = [bool(re.fullmatch(r'["}\],:]+', piece)) for piece in pieces]
    return np.array(marks + [False] * (PADDED - len(marks)))


def _walk(grammar: Grammar, ends: set[int], closing: Any, seed: int, most: int = 3000) -> list[int]:
    """Tokens drawn evenly from the allowed ones, rather an end or a closing one."""
    matcher, generator, tokens = grammar.matcher(), random.Random(seed), list[int]()
    while len(tokens) < most:
        allowed = matcher.allowed()
        for liked in (sorted(ends), np.flatnonzero(allowed & closing)):
            able = [int(token) for token in liked if allowed[token]]
            if able and generator.random() < 0.5:
                break
        else:
            able = np.flatnonzero(allowed).tolist()
        token = generator.choice(able)
        if token in ends:
            return tokens
        tokens.append(token)
        matcher.consume([token])
    raise AssertionError("the walk does not end")


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_allowed_fits(name: str, constraints: Constraints, tokenizer: Any, closing: Any) -> None:
    schema, ends = SCHEMAS[name], tokenizer.eos_token_ids
    grammar = constraints.json_schema(schema)
    answers = set()
    for seed in range(12):
        text = tokenizer.decode(_walk(grammar, ends, closing, seed))
        Draft202012Validator(schema).validate(json.loads(text))
        answers.add(text)
    assert len(answers) > 1 or name == "const"


def test_a_schema_constrains_more_than_another(constraints: Constraints, tokenizer: Any, closing: Any) -> None:
    """The walks would show a grammar that allows too much."""
    answers = [
        json.loads(tokenizer.decode(_walk(constraints.json_object(), tokenizer.eos_token_ids, closing, seed)))
        for seed in range(12)
    ]
    assert all(isinstance(answer, dict) for answer in answers)
    assert not all(Draft202012Validator(TREE).is_valid(answer) for answer in answers)


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_cannot_be_enforced_is_refused(schema: dict[str, Any], reason: str, constraints: Constraints) -> None:
    with pytest.raises(InputError, match=f"(?i){reason}") as raised:
        constraints.json_schema(schema, field="text.format")
    assert raised.value.field == "text.format"
    assert "<" not in str(raised.value).replace("(?<=", ""), "llguidance's own state"


@pytest.mark.parametrize("schema", [True, [], "object", None])
def test_a_schema_is_an_object(schema: Any, constraints: Constraints) -> None:
    with pytest.raises(InputError, match="must be an object"):
        constraints.json_schema(schema)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_large_schema_is_refused_at_once(name: str, constraints: Constraints) -> None:
    began = time.thread_time()
    with pytest.raises(InputError, match="too large") as raised:
        constraints.json_schema(TOO_LARGE[name])
    assert raised.value.expected
    assert time.thread_time() - began < 0.2


@pytest.mark.parametrize("name", WITHIN)
def test_the_largest_schemas_compile_soon(name: str, constraints: Constraints) -> None:
    constraints.json_object()
    began = time.thread_time()
    constraints.json_schema(WITHIN[name]).matcher().allowed()
    assert time.thread_time() - began < 0.6, "0.2 s is the most on a free core"


def test_the_end_is_allowed_exactly_where_the_grammar_may_end(tokenizer: Any) -> None:
    tokenizer = _with_ends(tokenizer, {0, 2})
    matcher = Constraints(tokenizer, PADDED).json_schema({"type": "integer", "maximum": 123}).matcher()
    assert not matcher.allowed()[[0, 2]].any()
    for digit in "123":
        matcher.consume(tokenizer.encode(digit))
        assert matcher.allowed()[[0, 2]].all()
    assert matcher.allowed().dtype == bool
    assert np.flatnonzero(matcher.allowed()).tolist() == [0, 2]
    matcher.consume([2])
    assert np.flatnonzero(matcher.allowed()).tolist() == [0, 2]
    matcher.consume([0, 2])
    assert np.flatnonzero(matcher.allowed()).tolist() == [0, 2]


def _with_ends(tokenizer: Any, ends: set[int]) -> Any:
    from copy import copy

    other = copy(tokenizer)
    other._eos_token_ids = ends
    return other


def test_padding_is_never_allowed(constraints: Constraints, tokenizer: Any) -> None:
    matcher = constraints.json_schema(TEXT).matcher()
    matcher.consume(tokenizer.encode('"'))
    allowed = matcher.allowed()
    assert allowed.shape == (PADDED,)
    assert allowed.sum() > 40000
    assert not allowed[len(tokenizer) :].any()


def test_an_answer_that_cannot_go_on_ends(constraints: Constraints, tokenizer: Any) -> None:
    matcher = constraints.json_schema({"type": "integer"}).matcher()
    assert isinstance(matcher, ConstrainedMatcher)
    assert matcher.failure is None
    matcher.consume(tokenizer.encode("secret"))
    assert np.flatnonzero(matcher.allowed()).tolist() == sorted(tokenizer.eos_token_ids)
    assert "secret" not in str(matcher.failure)
    assert "too complex" in str(matcher.failure)


def test_a_pattern_that_explodes_within_an_answer_fails_alone(constraints: Constraints, tokenizer: Any) -> None:
    late = {"type": "string", "pattern": "^.*[a-m].{200}$"}
    grammar = constraints.json_schema(_object({"first": {"const": "x"}, "late": late}, "first", "late"))
    matcher, other = grammar.matcher(), grammar.matcher()
    generator = random.Random(3)
    for _ in range(60):
        matcher.consume([generator.choice(np.flatnonzero(matcher.allowed()).tolist())])
    assert isinstance(matcher, ConstrainedMatcher)
    assert matcher.failure is not None
    assert other.allowed().any()
    assert isinstance(other, ConstrainedMatcher)
    assert other.failure is None


def test_matchers_of_one_grammar_are_apart_and_for_any_thread(
    constraints: Constraints, tokenizer: Any, closing: Any
) -> None:
    grammar = constraints.json_schema(TREE)
    assert constraints.json_schema(dict(TREE)) is grammar, "compiled once"
    alone = [_walk(grammar, tokenizer.eos_token_ids, closing, seed) for seed in range(6)]
    found: dict[int, list[int]] = {}

    def walk(seed: int) -> None:
        found[seed] = _walk(grammar, tokenizer.eos_token_ids, closing, seed)

    threads = [threading.Thread(target=walk, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(6)] == alone


def test_the_vocabulary_is_read_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llguidance import hf

    reads, read = [], hf.from_tokenizer
    monkeypatch.setattr(hf, "from_tokenizer", lambda *args, **rest: reads.append(1) or read(*args, **rest))
    constraints = Constraints(tokenizer, PADDED)
    assert not reads
    threads = [threading.Thread(target=constraints.json_object) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == [1]


def test_without_llguidance(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ZenError) as raised:
        Constraints(tokenizer, PADDED).json_object()
    assert raised.value.hint == "pip install 'zen-mlx[server]'"


def test_a_tokenizer_that_llguidance_cannot_read(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"cannot be constrained: .*too small"):
        Constraints(tokenizer, 100).json_object()


def _decode(model: Any, prompts: list[list[int]], processors: list[list[Any]], temperature: float) -> list[list[int]]:
    """The rows of one batch, until each ends or has 40 tokens; the last one comes three steps later."""
    generator = BatchGenerator(model, stop_tokens=[[257]])
    mx.random.seed(5)

    def insert(rows: slice) -> list[int]:
        samplers = [make_sampler(temp=temperature) if temperature else lambda row: mx.argmax(row, -1)] * len(
            prompts[rows]
        )
        return list(
            generator.insert(
                prompts[rows], [40] * len(prompts[rows]), samplers=samplers, logits_processors=processors[rows]
            )
        )

    uids, steps = insert(slice(0, -1)), 0
    found: dict[int, list[int]] = {}
    while len(uids) < len(prompts) or (responses := generator.next_generated()):
        if len(uids) < len(prompts):
            responses, steps = generator.next_generated(), steps + 1
            if steps == 3:
                uids += insert(slice(-1, None))
        for each in responses:
            found.setdefault(each.uid, []).append(each.token)
    return [found[uid] for uid in uids]


def test_a_constrained_row_leaves_the_others_as_they_are(tiny_model: Path) -> None:
    model, tokenizer = load_base(tiny_model)
    schema = _object({"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}}, "n", "ok")
    grammar = Constraints(tokenizer, 258).json_schema(schema)
    prompts = [tokenizer.encode(text) for text in ("one", "another prompt", "a", "the last")]
    free = _decode(model, prompts, [[], [], [], []], 0.0)
    matchers = [grammar.matcher(), grammar.matcher()]
    bound = [[], [logits_processor(matchers[0], len(prompts[1]))], [], [logits_processor(matchers[1])]]
    mixed = _decode(model, prompts, bound, 0.0)
    assert [mixed[0], mixed[2]] == [free[0], free[2]]
    for row in (1, 3):
        assert mixed[row][-1] == 257
        Draft202012Validator(schema).validate(json.loads(tokenizer.decode(mixed[row][:-1])))
        assert mixed[row] != free[row]


def test_the_processor_takes_the_same_tokens_twice(constraints: Constraints, tokenizer: Any) -> None:
    process = logits_processor(constraints.json_schema({"type": "integer"}).matcher(), 3)
    logits = mx.zeros((1, PADDED), mx.bfloat16)
    prompt = tokenizer.encode("one two three")[:3]
    answer = [*prompt, *tokenizer.encode("12")]
    for tokens, may_end in ((prompt, False), (prompt, False), (answer, True), (answer, True)):
        out = process(mx.array(tokens), logits)
        assert out.dtype == mx.bfloat16
        kept = np.array(out.astype(mx.float32))[0] == 0
        assert kept[2] == may_end
        assert kept[tokenizer.encode("1")[0]]
        assert not kept[tokenizer.encode("a")[0]]


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"$ref": "#/$defs/town"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["town", "days"],
            "additionalProperties": False,
            "$defs": {"town": {"enum": ["Zürich", "東京", 'the "Hague"']}},
        },
    },
}
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": _object({"a": {"enum": [1, -2.5]}, "b": {"type": "null"}}, "a", "b")},
}
TIME = {
    "type": "function",
    "function": {"name": "time", "parameters": {"type": "object", "additionalProperties": False}},
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_base(save_tiny_qwen3(tmp_path_factory.mktemp("qwen") / "tiny-qwen3"))


def test_the_tiny_qwen3_has_tools(qwen: tuple[Any, Any]) -> None:
    tokenizer = qwen[1]
    assert tokenizer.has_tool_calling
    assert (tokenizer.tool_call_start_tokens, tokenizer.tool_call_end_tokens) == ((CALL,), (CALL_END,))
    assert tokenizer.eos_token_ids == {TURN_END, TEXT_END}
    called = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "7"},
    ]
    ids = tokenizer.apply_chat_template(messages, tools=[ADD], tokenize=True, add_generation_prompt=True)
    assert tokenizer.decode(ids).endswith(
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": null}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert json.dumps(ADD) in tokenizer.decode(ids)
    assert ids.count(CALL) == 2, "once in the instructions, once called"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["get_weather", "time", None])
def test_a_forced_call_is_what_mlx_lm_parses(qwen: tuple[Any, Any], name: str | None, seed: int) -> None:
    model, tokenizer = qwen
    tools = [WEATHER, ADD, TIME]
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What now?"}], tools=tools, tokenize=True, add_generation_prompt=True
    )
    grammar = Constraints(tokenizer, VOCABULARY).tool_call(tools, name)
    mx.random.seed(seed)
    answer = _answer(model, ids, logits_processor(grammar.matcher(), len(ids)))
    assert answer[0] == CALL
    assert answer.count(CALL) == answer.count(CALL_END) == 1
    assert answer[-1] == CALL_END
    call = tokenizer.tool_parser(tokenizer.decode(answer[1:-1]), tools)
    assert name in (None, call["name"])
    (tool,) = (each["function"] for each in tools if each["function"]["name"] == call["name"])
    Draft202012Validator(tool["parameters"]).validate(call["arguments"])
    text = f'\n{{"name": "{call["name"]}", "arguments": {json.dumps(call["arguments"], ensure_ascii=False)}}}\n'
    assert tokenizer.decode(answer[1:-1]) == text, "as the template would write it"


def _answer(model: Any, ids: list[int], processor: Any) -> list[int]:
    """Drawn at temperature 1 by mlx-lm's generator, without the token that ends it."""
    generator = BatchGenerator(model, stop_tokens=[[TURN_END], [TEXT_END]], sampler=make_sampler(temp=1.0))
    generator.insert([ids], [400], logits_processors=[[processor]])
    tokens = []
    while responses := generator.next_generated():
        tokens += [each.token for each in responses]
    assert tokens[-1] in (TURN_END, TEXT_END)
    return tokens[:-1]


def test_any_of_the_tools_can_be_called(qwen: tuple[Any, Any]) -> None:
    tokenizer = qwen[1]
    grammar = Constraints(tokenizer, VOCABULARY).tool_call([WEATHER, ADD, TIME])
    called = '\n{"name": "add", "arguments": {"a": -2.5, "b": null}}\n'
    for text, good in ((called, True), (called.replace("null", "3"), False), (called.replace("add", "time"), False)):
        matcher = grammar.matcher()
        matcher.consume([CALL, *tokenizer.encode(text, add_special_tokens=False), CALL_END])
        assert isinstance(matcher, ConstrainedMatcher)
        assert (matcher.failure is None) == good


def test_markers_are_no_part_of_a_text(qwen: tuple[Any, Any]) -> None:
    """A string in the arguments cannot end the call."""
    tokenizer = qwen[1]
    note = {"type": "function", "function": {"name": "note", "parameters": _object({"text": TEXT}, "text")}}
    matcher = Constraints(tokenizer, VOCABULARY).tool_call([note], "note").matcher()
    matcher.consume([CALL, *tokenizer.encode('\n{"name": "note", "arguments": {"text": "x')])
    allowed = matcher.allowed()
    assert allowed[tokenizer.encode("<")[0]]
    assert not allowed[256:].any()


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        ([], "tool_choice"),
        ([{"type": "function"}], r"tools\[0\]"),
        ([ADD, {"type": "function", "function": {"name": ""}}], r"tools\[1\]"),
        ([{"function": {"name": "f", "parameters": {"type": "string"}}}], r"tools\[0\]"),
        ([{"function": {"name": "f", "parameters": {"properties": {"a": {"not": {}}}}}}], "tools"),
        ([{"function": {"name": "f", "parameters": _object({"a": _nest(65)})}}], "tools"),
        ([{"function": {"name": "f", "parameters": _each(150, lambda _: TEXT)}}] * 4, "tools"),
    ],
)
def test_tools_that_cannot_be_used(qwen: tuple[Any, Any], tools: list[Any], field: str) -> None:
    with pytest.raises(InputError) as raised:
        Constraints(qwen[1], VOCABULARY).tool_call(tools)
    assert re.fullmatch(field, str(raised.value.field))


def test_a_tool_that_is_not_there(qwen: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="no such tool") as raised:
        Constraints(qwen[1], VOCABULARY).tool_call([ADD, TIME], "subtract")
    assert (raised.value.expected, raised.value.found) == ("add, time", "subtract")


def test_bases_that_call_in_another_form_or_not_at_all(constraints: Constraints, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knows no tools"):
        constraints.tool_call([ADD])
    other = load_tokenizer(save_tiny_qwen3(tmp_path / "coder", "<tool_call>\n<function=x>"))
    with pytest.raises(InputError, match="qwen3_coder"):
        Constraints(other, VOCABULARY).tool_call([ADD])
