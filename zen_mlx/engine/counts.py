"""Counts of a backend since its start."""

from __future__ import annotations

from dataclasses import dataclass

from .request import Finish


@dataclass
class Counts:
    """Requests that came; tokens of prompts, how many of them were in a cache, and of answers."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def add(self, finish: Finish) -> None:
        """One answer has ended."""
        self.prompt_tokens += finish.prompt_tokens
        self.cached_tokens += finish.cached_tokens
        self.completion_tokens += finish.completion_tokens
