"""zen serve with answers of a given shape: JSON after a schema, calls of tools; and programs that make up requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import mlx.core as mx
import numpy as np
import openai
import pytest
from jsonschema import Draft202012Validator
from served_home import KEY, Home, make_home, serving
from server_process import Server

from tests.unit.engine.test_constraints import SCHEMAS, WEATHER

TESTS = Path(__file__).parents[1]
TOOL = {**WEATHER["function"], "parameters": WEATHER["function"]["parameters"]}
ASKED: list[Any] = [{"role": "user", "content": "The weather of Zürich?"}]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
TASK = """
task: ours
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
RECALL = (
    TASK
    + """
output_type: generate_until
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\u001e"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
)
CHOICES = ("never", "always", "on the second of May")
CHOICE = (
    TASK
    + f"doc_to_choice: {json.dumps(CHOICES)}"
    + """
output_type: multiple_choice
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("shaped"))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Server]:
    with serving(home, "--api-key-file", str(home.keys), "--max-tokens", "300", "--ollama") as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_json_fits_its_schema_unless_it_is_cut(client: openai.OpenAI) -> None:
    schemas = list(SCHEMAS.items())[:10]

    def ask(number: int) -> tuple[dict[str, Any], str, str]:
        name, schema = schemas[number % len(schemas)]
        answer = client.chat.completions.create(
            model=("tiny", "one", "five")[number % 3],
            messages=[{"role": "user", "content": "Say it in JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": name.split()[0], "schema": schema}},
            max_tokens=120,
            temperature=1,
            seed=number,
        )
        return schema, str(answer.choices[0].message.content), str(answer.choices[0].finish_reason)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(20)))
    whole = [(schema, text) for schema, text, reason in answers if reason == "stop"]
    assert len(whole) >= 10
    assert all(reason in ("stop", "length") for *_, reason in answers)
    for schema, text in whole:
        Draft202012Validator(schema).validate(json.loads(text))


def test_a_schema_that_cannot_be_enforced_is_refused(client: openai.OpenAI) -> None:
    schema = {"type": "array", "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        client.chat.completions.create(
            model="one",
            messages=ASKED,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )


def check(name: str, arguments: str | dict[str, Any]) -> None:
    assert name == "get_weather"
    found = json.loads(arguments) if isinstance(arguments, str) else arguments
    Draft202012Validator(TOOL["parameters"]).validate(found)


@pytest.mark.parametrize("model", ["tiny", "tiny@one", "five"])
def test_a_forced_call(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": ASKED,
        "tools": [WEATHER],
        "tool_choice": "required",
        "temperature": 1,
        "seed": 3,
    }
    answer = client.chat.completions.create(**asked).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    (call,) = answer.message.tool_calls
    check(call.function.name, call.function.arguments)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    (again,) = streamed.message.tool_calls
    assert (again.function.name, again.function.arguments) == (call.function.name, call.function.arguments)
    assert streamed.finish_reason == "tool_calls"


def test_a_forced_call_in_the_other_dialect(server: Server) -> None:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key=KEY) as client:
        asked: dict[str, Any] = {
            "model": "two",
            "max_tokens": 300,
            "messages": ASKED,
            "tools": [{"name": "get_weather", "description": "x", "input_schema": TOOL["parameters"]}],
            "tool_choice": {"type": "tool", "name": "get_weather"},
            "extra_body": {"temperature": 0},
        }
        answer = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for each in (answer, streamed):
            assert each.stop_reason == "tool_use"
            (block,) = each.content
            check(block.name, block.input)
        assert streamed.content[0].input == answer.content[0].input
        cut = client.messages.create(**{**asked, "max_tokens": 20})
        assert (cut.stop_reason, [block for block in cut.content if block.type == "tool_use"]) == ("max_tokens", [])


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_is_not_sent(client: openai.OpenAI, stream: bool) -> None:
    for tokens in (1, 20, 40):
        asked: dict[str, Any] = {"model": "one", "messages": ASKED, "tools": [WEATHER], "tool_choice": "required"}
        answer: Any = client.chat.completions.create(**asked, max_tokens=tokens, temperature=0, stream=stream)
        if stream:
            chunks = [chunk.choices[0] for chunk in answer]
            assert chunks[-1].finish_reason == "length"
            assert not [chunk for chunk in chunks if chunk.delta.tool_calls]
        else:
            assert answer.choices[0].finish_reason == "length"
            assert not answer.choices[0].message.tool_calls


class Evaluate:
    """lm-eval over HTTP, with a task of our own."""

    def __init__(self, port: int, folder: Path) -> None:
        self._url = f"http://127.0.0.1:{port}/v1"
        self._folder = folder

    def __call__(self, kind: str, task: str, rows: list[dict[str, str]], **model: Any) -> list[dict[str, Any]]:
        """The samples, in the order of `rows`. task: its YAML, where {data} stands for them. model: arguments of `kind`."""
        lm_eval = pytest.importorskip("lm_eval")
        chat = kind == "local-chat-completions"
        (self._folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
        (self._folder / "task.yaml").write_text(task.format(data=self._folder / "rows.json"))
        found = lm_eval.simple_evaluate(
            model=kind,
            model_args={"base_url": f"{self._url}/{'chat/' if chat else ''}completions", "num_concurrent": 4, **model},
            tasks=["ours"],
            task_manager=lm_eval.tasks.TaskManager(include_path=str(self._folder), include_defaults=False),
            apply_chat_template=chat,
            bootstrap_iters=0,
            log_samples=True,
        )
        return sorted(found["samples"]["ours"], key=lambda each: int(each["doc_id"]))


@pytest.fixture
def evaluate(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return Evaluate(server.port, tmp_path)


@pytest.mark.parametrize("kind", ["local-completions", "local-chat-completions"])
@pytest.mark.filterwarnings("default")
def test_lm_eval(home: Home, evaluate: Evaluate, kind: str) -> None:
    rows = [{"question": f"question {number}", "answer": "never"} for number in range(4)]
    samples = evaluate(kind, RECALL, rows, model="tiny@one", tokenizer_backend=None, tokenized_requests=False)
    said = [sample["resps"][0][0] for sample in samples]
    assert len(said) == 4
    if kind == "local-chat-completions":
        want = [home.alone(row["question"], "one", ["\x1e"], max_tokens=12, temperature=0.0)[0] for row in rows]
        assert said == want


@pytest.mark.parametrize("profile", [None, "four"])
def test_lm_eval_s_likelihoods(home: Home, evaluate: Evaluate, profile: str | None) -> None:
    """Of choices, over HTTP with `echo`, against one forward pass of the attached model."""
    rows = [{"question": f"question {number}"} for number in range(3)]
    tokenizer = {"tokenizer_backend": "huggingface", "tokenizer": str(home.base)}
    name = "tiny" if profile is None else f"tiny@{profile}"
    samples = evaluate("local-completions", CHOICE, rows, model=name, **tokenizer)
    encode = home.manager.tokenizer.encode
    with home.manager.using(profile) as model:
        for number, sample in enumerate(samples):
            for text, (said, greedy) in zip(CHOICES, sample["filtered_resps"], strict=True):
                context, whole = encode(f"question {number}"), encode(f"question {number} {text}")
                want, likeliest = scores(model, whole)
                rest = range(len(context) - 1, len(whole) - 1)
                assert said == pytest.approx(sum(want[each] for each in rest), abs=1e-3)
                assert greedy == all(likeliest[each] for each in rest)


def scores(model: Any, ids: list[int]) -> tuple[list[float], list[bool]]:
    """(log-probability, whether no other is likelier) of each token after the first."""
    logits = model(mx.array([ids]))[0, :-1]
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    following = np.array(ids[1:])
    own = logprobs[np.arange(len(following)), following]
    return own.tolist(), (own >= logprobs.max(axis=-1)).tolist()


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_begins_with_the_prompt(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "one", "prompt": "Zürich is", "max_tokens": 5, "temperature": 0}
    without = client.completions.create(**asked).choices[0].text
    answer: Any = client.completions.create(**asked, echo=True, logprobs=2, stream=stream)
    choices = [each.choices[0] for each in answer] if stream else [answer.choices[0]]
    assert "".join(each.text for each in choices) == "Zürich is" + without
    known = [each.logprobs for each in choices if each.logprobs is not None]
    values = [value for each in known for value in each.token_logprobs]
    assert values[0] is None
    assert all(value < 0 for value in values[1:])
    assert [top is None for each in known for top in each.top_logprobs] == [True] + [False] * (len(values) - 1)
    offsets = [offset for each in known for offset in each.text_offset]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    assert client.completions.create(**asked, echo=True).choices[0].text == "Zürich is" + without


def test_made_up_requests_get_what_the_document_says(server: Server, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{server.port}/openapi.json"]
    options = ["--checks", CHECKS, "--phases", "fuzzing", "--max-examples", "2", "--seed", "17", "--no-color"]
    done = subprocess.run(
        [*command, *options, "--header", f"Authorization: Bearer {KEY}"],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "17 passed" in done.stdout
