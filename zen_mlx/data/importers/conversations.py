"""Messages with senders -> conversations whose assistant is the person to learn from.

A long pause ends a conversation; runs of one side become one turn; what nobody answers at the end and what the person
says before anyone else is left out. A conversation longer than a row goes on in the next row, on the same side of a split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..example import Example
from .tally import Tally

PAUSE_S = 6 * 3600.0


@dataclass(frozen=True)
class Message:
    """sender: "" for words of nobody's. at: seconds since 1970, None if unknown. mine: known by the export itself.
    names: further names of the sender."""

    sender: str
    text: str
    at: float | None
    source: str
    mine: bool | None = None
    names: tuple[str, ...] = ()


@dataclass
class _Turn:
    role: str
    text: str
    source: str
    speaker: str


def conversations(
    messages: Iterable[Message], name: str, tally: Tally, *, pause_s: float = PAUSE_S
) -> Iterator[Example]:
    """Examples from the messages of one chat, in order; `name` tells this chat from others."""
    tally.chats += 1
    unknown: dict[str, int] = {}
    part: list[tuple[Message, bool]] = []
    last: float | None = None
    mine_at_all = False
    number = 0
    for message in messages:
        mine = message.mine if message.mine is not None else tally.is_me((message.sender, *message.names))
        mine_at_all |= mine
        if message.mine is None and not mine_at_all:
            unknown[message.sender] = unknown.get(message.sender, 0) + 1
        if part and last is not None and message.at is not None and message.at - last > pause_s:
            number += 1
            yield from _conversation(part, f"{name}#{number}", tally)
            part = []
        last = message.at if message.at is not None else last
        part.append((message, mine))
    yield from _conversation(part, f"{name}#{number + 1}", tally)
    if mine_at_all:
        tally.chats_of_me += 1
    elif unknown:
        tally.senders.update(unknown)


def _conversation(part: list[tuple[Message, bool]], name: str, tally: Tally) -> Iterator[Example]:
    if not part:
        return
    group = len({message.sender for message, mine in part if message.sender and not mine}) > 1
    turns: list[_Turn] = []
    for message, mine in part:
        role = "assistant" if mine else "user"
        text = message.text.strip()
        new_speaker = not turns or turns[-1].role != role or turns[-1].speaker != message.sender
        if group and message.sender and not mine and new_speaker:
            text = f"{message.sender}: {text}"
        if turns and turns[-1].role == role:
            turns[-1].text += f"\n{text}"
            turns[-1].speaker = message.sender
        else:
            turns.append(_Turn(role, text, message.source, message.sender))
    while turns and turns[-1].role == "user":
        turns.pop()
    if turns and turns[0].role == "assistant":
        tally.skip("said before anyone else spoke", turns.pop(0).source)
    if not turns:
        if not any(mine for _, mine in part):
            tally.skip("a conversation in which you said nothing", part[0][0].source)
        return
    for piece in _pieces(turns, tally.options.row_chars):
        messages = tuple((turn.role, turn.text) for turn in piece)
        yield Example(piece[0].source, messages, conversation=name)


def _pieces(turns: list[_Turn], most_chars: int) -> Iterator[list[_Turn]]:
    """Runs of whole question-and-answer pairs of at most `most_chars` characters, or one pair."""
    piece: list[_Turn] = []
    length = 0
    for at in range(0, len(turns), 2):
        pair = turns[at : at + 2]
        chars = sum(len(turn.text) for turn in pair)
        if piece and length + chars > most_chars:
            yield piece
            piece, length = [], 0
        piece += pair
        length += chars
    if piece:
        yield piece
