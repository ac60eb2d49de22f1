"""Counts and times for Prometheus, in a registry of each server's own; nothing of a prompt, an answer or a profile's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EACH = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1)
_GAUGES = {
    "running": ("zen_requests_running", "Answers that are being made."),
    "queued": ("zen_requests_queued", "Requests that wait."),
    "resident_bytes": ("zen_resident_bytes", "Bytes of the profiles in memory."),
    "cache_bytes": ("zen_prompt_cache_bytes", "Bytes of the prompt caches."),
}
_TOTALS = {
    "prompt_tokens": ("zen_prompt_tokens", "Tokens of prompts."),
    "completion_tokens": ("zen_completion_tokens", "Tokens of answers."),
}


class Metrics:
    """The numbers of one server. stats: the backend's, read when somebody asks."""

    def __init__(self, stats: Callable[[], dict[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("zen_requests", "Requests.", ["route", "status"], registry=self._registry)
        self._first = Histogram(
            "zen_first_token_seconds", "From request to first token.", buckets=_FIRST, registry=self._registry
        )
        self._each = Histogram("zen_token_seconds", "Between two tokens.", buckets=_EACH, registry=self._registry)
        self._registry.register(_Backend(stats))

    def request(self, route: str, status: int) -> None:
        """A request was answered. route: its template, never its path."""
        self._requests.labels(route, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        """An answer began."""
        self._first.observe(seconds)

    def tokens(self, count: int, seconds: float) -> None:
        """An answer went on with `count` tokens after `seconds`."""
        for _ in range(count):
            self._each.observe(seconds / count)

    def text(self) -> bytes:
        """The document of /metrics."""
        return generate_latest(self._registry)


class _Backend(Collector):
    def __init__(self, stats: Callable[[], dict[str, Any]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for key, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value=stats.get(key, 0))
        for key, (name, text) in _TOTALS.items():
            yield CounterMetricFamily(name, text, value=stats.get(key, 0))

    def describe(self) -> list[Metric]:
        return []
