"""Decoding and chat sessions on a tiny random llama with a byte tokenizer: every path, no base needed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import llama
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from zen_mlx.config import Sampling
from zen_mlx.engine.chat import ChatSession
from zen_mlx.engine.decoding import generate, prompt_ids
from zen_mlx.errors import ConfigError, InputError

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 160


def _tokenizer(template: str | None = TEMPLATE) -> TokenizerWrapper:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True) for token in ("<end>", "<|user|>", "<|assistant|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")
    fast.chat_template = template
    return TokenizerWrapper(fast)


def _model(seed: int = 0, context: int = CONTEXT) -> Any:
    mx.random.seed(seed)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=259,
        max_position_embeddings=context,
    )
    model = llama.Model(args)
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerWrapper:
    return _tokenizer()


@pytest.fixture
def session(tokenizer: TokenizerWrapper) -> ChatSession:
    return ChatSession(_model(), tokenizer, Sampling(max_tokens=6, temperature=0))


def test_greedy_is_the_argmax_of_the_whole_sequence(tokenizer: TokenizerWrapper) -> None:
    model = _model()
    ids = prompt_ids(tokenizer, "abc")
    found = generate(model, tokenizer, "abc", Sampling(max_tokens=5, temperature=0))
    drawn: list[int] = []
    for _ in range(5):
        drawn.append(int(mx.argmax(model(mx.array([ids + drawn]))[0, -1]).item()))
    assert found.text == tokenizer.decode(drawn)
    assert (found.finish_reason, found.prompt_tokens, found.completion_tokens) == ("length", len(ids), 5)


def test_a_seed_repeats_and_a_missing_one_is_told(tokenizer: TokenizerWrapper) -> None:
    model = _model()
    first = generate(model, tokenizer, "abc", Sampling(max_tokens=8, temperature=1.5))
    again = generate(model, tokenizer, "abc", Sampling(max_tokens=8, temperature=1.5, seed=first.seed))
    assert again.text == first.text
    other = generate(model, tokenizer, "abc", Sampling(max_tokens=8, temperature=1.5, seed=(first.seed + 1) % 2**32))
    assert other.text != first.text


def test_pieces_join_to_the_text(tokenizer: TokenizerWrapper) -> None:
    pieces: list[str] = []
    found = generate(_model(), tokenizer, "abc", Sampling(max_tokens=8, seed=1), on_text=pieces.append)
    assert "".join(pieces) == found.text


def test_without_a_template_the_plain_text_goes_on() -> None:
    plain = _tokenizer(None)
    assert prompt_ids(plain, "abc") == plain.encode("abc")
    with pytest.raises(InputError, match="system"):
        prompt_ids(plain, "abc", "be brief")
    with pytest.raises(InputError, match="empty"):
        prompt_ids(plain, "")
    with pytest.raises(InputError, match="cannot hold a conversation"):
        list(ChatSession(_model(), plain).ask("hi"))


def test_a_template_that_refuses_is_an_input_error() -> None:
    picky = _tokenizer("{{ raise_exception('no') }}")
    with pytest.raises(InputError, match="refuses"):
        prompt_ids(picky, "abc")


def test_the_answer_ends_where_the_context_does(tokenizer: TokenizerWrapper) -> None:
    model = _model(context=20)
    room = 20 - len(prompt_ids(tokenizer, "abc"))
    assert generate(model, tokenizer, "abc", Sampling(max_tokens=100, temperature=0)).completion_tokens == room
    with pytest.raises(InputError, match="longer"):
        generate(model, tokenizer, "a" * 30, Sampling())


@pytest.mark.parametrize(
    "bad",
    [{"max_tokens": 0}, {"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}],
    ids=str,
)
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        Sampling(**bad)  # type: ignore[arg-type]
    assert caught.value.field == next(iter(bad))


def _fresh(session: ChatSession, model: Any, tokenizer: TokenizerWrapper) -> str:
    """The answer to the last question computed without any cache."""
    other = ChatSession(model, tokenizer, session.sampling, session.system)
    other.messages = [*session.messages[:-1], {"role": "assistant", "content": ""}]
    return "".join(other.retry())


def test_turns_reuse_the_cache_and_change_nothing(session: ChatSession, tokenizer: TokenizerWrapper) -> None:
    for turn, question in enumerate(("abc", "defg", "hi")):
        answer = "".join(session.ask(question))
        assert session.messages[-1] == {"role": "assistant", "content": answer}
        assert session.last is not None
        assert (session.last.cached_tokens > 0) == (turn > 0)
        assert answer == _fresh(session, _model(), tokenizer)


def test_retry_replaces_the_answer_and_keeps_the_prompt_in_the_cache(session: ChatSession) -> None:
    first = "".join(session.ask("abc"))
    assert "".join(session.retry()) == first
    assert len(session.messages) == 2
    assert session.last is not None
    assert session.last.cached_tokens == session.last.prompt_tokens - 1
    with pytest.raises(InputError, match="no question"):
        list(ChatSession(_model(), session._tokenizer).retry())


def test_another_model_reads_the_same_conversation(session: ChatSession, tokenizer: TokenizerWrapper) -> None:
    list(session.ask("abc"))
    session.use(_model(seed=5))
    answer = "".join(session.ask("def"))
    assert session.last is not None
    assert session.last.cached_tokens == 0
    assert len(session.messages) == 4
    assert answer == _fresh(session, _model(seed=5), tokenizer)


def test_stopping_keeps_what_was_said(session: ChatSession, tokenizer: TokenizerWrapper) -> None:
    pieces: list[str] = []
    for piece in session.ask("abc", should_stop=lambda: len(pieces) >= 2):
        pieces.append(piece)
    assert session.last is not None
    assert session.last.finish_reason == "interrupted"
    assert session.messages[-1] == {"role": "assistant", "content": "".join(pieces)}
    answer = "".join(session.ask("def"))
    assert answer == _fresh(session, _model(), tokenizer)


def test_stopping_before_the_first_token(session: ChatSession) -> None:
    assert list(session.ask("abc", should_stop=lambda: True)) == []
    assert session.messages[-1]["content"] == ""
    assert "".join(session.retry())


def test_a_reader_that_leaves_or_an_interrupt_keeps_the_part(session: ChatSession, tokenizer: TokenizerWrapper) -> None:
    pieces = session.ask("abc")
    part = next(pieces)
    pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": part}
    assert "".join(session.ask("def")) == _fresh(session, _model(), tokenizer)


def test_oldest_exchanges_leave_a_full_context(session: ChatSession) -> None:
    session.sampling = Sampling(max_tokens=10, temperature=0)
    session.system = "sys"
    dropped = 0
    for _ in range(6):
        list(session.ask("a" * 30))
        assert session.last is not None
        dropped += session.last.dropped
        assert session.messages[0]["role"] == "user"
    assert dropped > 0
    assert session.last is not None
    assert session.last.prompt_tokens <= CONTEXT - 10


def test_one_message_beyond_the_context_is_refused_and_forgotten(session: ChatSession) -> None:
    list(session.ask("abc"))
    before = list(session.messages)
    with pytest.raises(InputError, match="longer"):
        list(session.ask("a" * 500))
    assert session.messages == before
    assert "".join(session.ask("abc"))


def test_save_and_load(session: ChatSession, tokenizer: TokenizerWrapper, tmp_path: Path) -> None:
    session.system = "be brief"
    list(session.ask("abc"))
    file = tmp_path / "talk.json"
    session.save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = ChatSession(_model(), tokenizer)
    other.load(file)
    assert (other.system, other.messages) == ("be brief", session.messages)


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"messages": 1}',
        b'{"messages": [1]}',
        b'{"messages": [{"role": "owl", "content": ""}]}',
        b'{"messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}',
    ],
    ids=lambda content: content[:40].decode("latin1"),
)
def test_a_bad_conversation_file_changes_nothing(content: bytes, session: ChatSession, tmp_path: Path) -> None:
    list(session.ask("abc"))
    before = json.dumps(session.messages)
    file = tmp_path / "talk.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        session.load(file)
    assert caught.value.path == str(file)
    assert json.dumps(session.messages) == before
    with pytest.raises(InputError):
        session.load(tmp_path / "absent.json")
