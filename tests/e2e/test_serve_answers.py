"""zen serve with a small base and a profile of every kind: each answer, however it is asked for, equals the one alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from served_home import GUEST, KEY, KINDS, Home, make_home, serving
from server_process import Server

from tests.unit.server.test_app import NAMES

ASKED = [{"role": "user", "content": "Define: patience"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Server]:
    """One server for the module, which is told to stop in the middle of an answer."""
    with serving(home, "--api-key-file", str(home.keys), "--max-streams", "16") as server:
        yield server
        with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY) as client:
            stream = iter(chat(client, "tiny@one", stream=True, max_tokens=200, temperature=1, seed=4))
            next(stream)
            server.process.send_signal(signal.SIGTERM)
            assert list(stream)[-1].choices[0].finish_reason in ("stop", "length")
        assert server.process.wait(20) == 0
        assert "patience" not in "\n".join(server.log)
        assert KEY not in "\n".join(server.log)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def other_client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers, timeout=60) as client:
        yield client


def chat(client: openai.OpenAI, model: str, content: Any = "Define: patience", **options: Any) -> Any:
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
    return client.chat.completions.create(model=model, messages=messages, **options)


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def joined(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_mixed_answers_at_once_equal_each_alone(
    home: Home, client: openai.OpenAI, other_client: anthropic.Anthropic, http: httpx.Client
) -> None:
    sampled = {"temperature": 0.9, "top_p": 0.9}
    cases: list[tuple[str | None, dict[str, Any]]] = [
        *((name, {"temperature": 0.0}) for name in (None, *KINDS)),
        (None, {**sampled, "seed": 5}),
        *((name, {**sampled, "seed": number}) for number, name in enumerate(KINDS)),
    ]
    want = [home.alone(f"question {number}", name, max_tokens=90, **how) for number, (name, how) in enumerate(cases)]
    assert len({text for text, _ in want}) == len(cases)

    def ask(number: int, stream: bool) -> tuple[str, str]:
        name, how = cases[number]
        options = {"content": f"question {number}", "max_tokens": 90, **how}
        if not stream:
            answer = chat(client, name or "tiny", **options)
            return text_of(answer), str(answer.choices[0].finish_reason)
        chunks = [chunk for chunk in chat(client, name or "tiny", stream=True, **options) if chunk.choices]
        return joined(chunks), str(chunks[-1].choices[0].finish_reason)

    def ask_other(number: int, stream: bool) -> tuple[str, str]:
        asked: dict[str, Any] = {
            "model": f"tiny@{cases[number][0]}" if cases[number][0] else "tiny",
            "messages": [{"role": "user", "content": f"question {number}"}],
            "max_tokens": 90,
            "extra_body": {"temperature": 0},
        }
        if not stream:
            answer = other_client.messages.create(**asked)
        else:
            with other_client.messages.stream(**asked) as events:
                text = "".join(events.text_stream)
                answer = events.get_final_message()
            assert text == "".join(block.text for block in answer.content)
        reason = {"end_turn": "stop", "max_tokens": "length"}[str(answer.stop_reason)]
        return "".join(block.text for block in answer.content), reason

    with ThreadPoolExecutor(40) as pool:
        found = [(number, pool.submit(ask, number, stream)) for number in range(len(cases)) for stream in (False, True)]
        found += [(number, pool.submit(ask_other, number, stream)) for number in range(6) for stream in (False, True)]
        most = 0
        while not all(each.done() for _, each in found):
            most = max(most, http.get("/health").json()["running"])
        answers = [(number, each.result()) for number, each in found]
    assert answers == [(number, want[number]) for number, _ in answers]
    assert most >= 6, "they ran side by side"


def test_several_answers_stop_texts_and_log_probabilities(home: Home, client: openai.OpenAI) -> None:
    options = {"max_tokens": 40, "temperature": 0.8, "seed": 11}
    three = chat(client, "one", n=3, **options)
    want = [
        home.alone("Define: patience", "one", max_tokens=40, temperature=0.8, seed=11 + more)[0] for more in range(3)
    ]
    assert [choice.message.content for choice in three.choices] == want
    assert len(set(want)) == 3
    whole = home.alone("Define: patience", "two", max_tokens=40, temperature=0.0)[0]
    stop = next(letter for letter in whole[5:] if letter.isprintable() and letter != "\ufffd")
    answer = chat(client, "two", max_tokens=40, temperature=0.0, stop=[stop])
    assert (text_of(answer), answer.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
    streamed = chat(client, "two", max_tokens=40, temperature=0.0, stop=stop, stream=True)
    assert joined(streamed) == whole[: whole.index(stop)]
    known = chat(client, "two", max_tokens=5, temperature=0.0, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert len(known.content) == 5
    for token in known.content:
        assert token.logprob == token.top_logprobs[0].logprob >= token.top_logprobs[2].logprob
        assert token.token == token.top_logprobs[0].token


def test_a_second_turn_is_read_from_the_cache(home: Home, client: openai.OpenAI) -> None:
    for name in (None, "one", "five"):
        first = chat(client, name or "tiny", "first question", max_tokens=20, temperature=0.0)
        turns = [
            {"role": "user", "content": "first question"},
            {"role": "assistant", "content": text_of(first)},
            {"role": "user", "content": "and then?"},
        ]
        second = chat(client, name or "tiny", turns, max_tokens=20, temperature=0.0)
        assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
        assert (text_of(second), second.choices[0].finish_reason) == home.alone(
            turns, name, max_tokens=20, temperature=0.0
        )


def test_profiles_come_change_and_go(home: Home, client: openai.OpenAI, http: httpx.Client) -> None:
    def resident() -> list[str]:
        rows = http.get("/admin/profiles").json()["profiles"]
        return [row["name"] for row in rows if row["resident"]]

    def greedy(tokens: int) -> str:
        return home.alone("Define: patience", "six", max_tokens=tokens, temperature=0.0)[0]

    with pytest.raises(openai.NotFoundError):
        chat(client, "six")
    home.save("six", "sign", 60)
    assert "tiny@six" in [model.id for model in client.models.list()]
    old, short = greedy(600), greedy(20)
    assert text_of(chat(client, "six", max_tokens=20, temperature=0.0)) == short
    stream = iter(chat(client, "six", stream=True, max_tokens=600, temperature=0.0))
    began = [next(stream), next(stream)]
    home.save("six", "planes", 61)
    assert text_of(chat(client, "six", max_tokens=20, temperature=0.0)) == greedy(20) != short
    assert joined([*began, *stream]) == old
    old = greedy(600)
    stream = iter(chat(client, "six", stream=True, max_tokens=600, temperature=0.0))
    began = [next(stream), next(stream)]
    command = [sys.executable, "-m", "zen_mlx", "profile", "remove", "six", "--yes"]
    subprocess.run(command, check=True, env=home.environment, capture_output=True)
    with pytest.raises(openai.NotFoundError):
        chat(client, "six")
    assert "tiny@six" not in [model.id for model in client.models.list()]
    assert joined([*began, *stream]) == old
    until(lambda: "six" not in resident())


def test_the_list_of_models_has_facts(home: Home, http: httpx.Client) -> None:
    models = {each["id"]: each for each in http.get("/v1/models").json()["data"]}
    assert "zen" not in models["tiny"]
    for name in KINDS:
        header = home.manager.store.header(name)
        facts = {"file_bytes": header.file_bytes, "bits_per_weight": header.bits_per_weight, "metrics": {}}
        assert models[f"tiny@{name}"]["zen"] == facts
        assert http.get(f"/v1/models/{name}").json() == models[f"tiny@{name}"]


def test_admin_routes(home: Home, http: httpx.Client, client: openai.OpenAI, tmp_path: Path) -> None:
    home.save("seven", "sign", 70)
    data = home.manager.store.path("seven").read_bytes()
    want = home.alone("Define: patience", "seven", max_tokens=9, temperature=0.0)[0]
    home.manager.store.remove("seven")
    binary = {"content-type": "application/octet-stream"}

    def put(name: str, content: bytes, query: str = "") -> tuple[int, Any]:
        answer = http.put(f"/admin/profiles/{name}{query}", content=content, headers=binary)
        return answer.status_code, answer.json()

    status, row = put("eight", data)
    assert (status, row["name"], row["resident"], row["pinned"]) == (200, "eight", False, False)
    assert text_of(chat(client, "eight", max_tokens=9, temperature=0.0)) == want
    assert http.get("/admin/profiles/eight").json() == row | {"resident": True}
    assert http.put("/admin/profiles/eight/pin").json()["pinned"]
    assert http.get("/admin/profiles/eight").json()["pinned"]
    assert not http.delete("/admin/profiles/eight/pin").json()["pinned"]
    assert put("eight", data, "?replace=true")[0] == 200
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    for name, content, wanted in (
        ("eight", data, (409, "profile_exists")),
        ("nine", damaged, (400, "format")),
        ("nine", data[:100], (400, "format")),
        ("nine", b"", (400, "format")),
        ("nine", other.read_bytes(), (400, "unsupported_format")),
        ("base", data, (400, "name_invalid")),
        (".hidden", data, (400, "name_invalid")),
        ("nine", foreign(home, tmp_path), (400, "target")),
    ):
        status, document = put(name, content)
        assert (status, document["error"]["code"]) == wanted, document
        assert str(home.folder) not in str(document)
    assert http.delete("/admin/profiles/eight").json() == {"deleted": "eight"}
    for method in ("GET", "DELETE"):
        answer = http.request(method, "/admin/profiles/eight")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "profile_not_found")
    assert sorted(row["name"] for row in http.get("/admin/profiles").json()["profiles"]) == sorted(KINDS)
    assert not list((home.folder / "downloads").iterdir())
    for key, status in ((GUEST, 403), ("", 401)):
        headers = {"authorization": f"Bearer {key}"} if key else {"authorization": ""}
        assert http.get("/admin/profiles", headers=headers).status_code == status
        assert http.delete("/admin/profiles/one", headers=headers).status_code == status
        assert http.put("/admin/profiles/x", content=data, headers=headers | binary).status_code == status


def foreign(home: Home, folder: Path) -> bytes:
    """A profile for a base with other parameters."""
    profile = home.manager.store.load("one")
    profile.tensors = {f"other.{name}": tensor for name, tensor in profile.tensors.items()}
    home.manager.store.save("foreign", profile)
    data = home.manager.store.path("foreign").read_bytes()
    home.manager.store.remove("foreign")
    return data


def test_hostile_names_get_one_404(http: httpx.Client) -> None:
    def answer(name: str) -> tuple[int, str]:
        found = http.post("/v1/chat/completions", json={"model": name, "messages": ASKED, "max_tokens": 1})
        return found.status_code, found.text

    hostile = [name for name in NAMES if name not in ("", "tiny@cynic")]
    assert len(hostile) >= 200
    assert {answer(name) for name in hostile} == {answer("nobody")}
    assert answer("nobody")[0] == 404
    guest = {"authorization": f"Bearer {GUEST}"}
    asked = {"messages": ASKED, "max_tokens": 1}
    statuses = [
        http.post("/v1/chat/completions", json=asked | {"model": name}, headers=guest).status_code
        for name in ("one", "two", "tiny")
    ]
    assert statuses == [200, 404, 404]
