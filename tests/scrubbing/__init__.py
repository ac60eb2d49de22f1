"""Made-up texts with secrets and without, built from the documented forms by a seeded generator; no secret is written down.

`python -m tests.scrubbing` prints what the scrubber leaks and takes for secret, by kind.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass

from zen_mlx.data.importers.scrub import scrub

SEED = 20


@dataclass(frozen=True)
class Planted:
    """A text and the secret in it."""

    kind: str
    text: str
    secret: str


def leaks(planted: Planted) -> bool:
    """True when half of the secret or more is still in the scrubbed text."""
    clean = re.sub(r"\[[a-z -]+\]", "\0", scrub(planted.text, Counter(), keep_contacts=False))
    size = max(2, -(-len(planted.secret) // 2))
    pieces = {planted.secret[at : at + size] for at in range(len(planted.secret) - size + 1)}
    around = planted.text.replace(planted.secret, "\0")
    return any(piece in clean and piece not in around for piece in pieces)


def changed(text: str) -> bool:
    """True when the scrubber takes something in `text` for secret."""
    return scrub(text, Counter(), keep_contacts=False) != text


def letters(rng: random.Random, alphabet: str, count: int) -> str:
    """`count` letters, with at least one digit where the alphabet has any."""
    made = [rng.choice(alphabet) for _ in range(count)]
    if alphabet[-1].isdigit() and count >= 8:
        made[rng.randrange(1, count)] = rng.choice("23456789")
        made[rng.randrange(1, count)] = rng.choice("23456789")
    return "".join(made)


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())
