"""Settings of answers and of the server that gives them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .fields import Checked, setting

SEEDS = 2**32  # the seeds of an answer are below it


@dataclass(frozen=True)
class Sampling(Checked):
    """How tokens are chosen. temperature 0 is greedy; top_p 1 keeps every token; seed None draws one for each answer."""

    max_tokens: int = setting(512, "Most tokens in an answer.", least=1)
    temperature: float = setting(
        0.7, "Temperature, 0 to 10; 0 always takes the likeliest token.", least=0, most=10, option="--temp"
    )
    top_p: float = setting(
        0.95, "Draw from the likeliest tokens whose probabilities add up to X; 1 draws from all.", above=0, most=1
    )
    seed: int | None = setting(
        None, "Seed that makes answers repeatable. Default: a new one for each answer.", least=0, most=SEEDS - 1
    )


_bytes = functools.partial(setting, least=1)
_seconds = functools.partial(setting, above=0)


@dataclass(frozen=True)
class ServeOptions(Checked):
    """How `zen serve` listens, what it takes at most, and how long it waits.

    max_profiles, max_profiles_bytes, cache_bytes, max_streams and max_queue belong to the backend. Every time limit is
    in seconds: header_timeout_s to the end of a request's head, body_timeout_s to the end of its body, idle_timeout_s
    between two requests, stall_timeout_s while a client takes nothing of an answer, request_timeout_s for the whole
    answer, drain_s for the answers that run when the server is told to stop.
    """

    host: str = setting("127.0.0.1", "Address to listen on; any but this machine's own needs --api-key-file.")
    port: int = setting(8936, "Port to listen on; 0: any free one, which is then printed.", least=0, most=65535)
    api_key_file: str | None = setting(
        None, "File with the API keys, one on a line, readable by you alone; --new-key makes one."
    )
    allow_host: tuple[str, ...] = setting(
        (), "Host name by which clients may call this server, beside localhost. Repeat it for others."
    )
    allow_origin: tuple[str, ...] = setting(
        (), "Origin of a web page that may use this server, such as https://app.example. Repeat it for others."
    )
    max_profiles: int = setting(16, "Most profiles in memory at once.", least=1)
    max_profiles_bytes: int | None = _bytes(None, "Most bytes of profiles in memory. Default: no limit.")
    cache_bytes: int = setting(1 << 30, "Most bytes of prompt caches.", least=0)
    max_streams: int = setting(32, "Most answers that are computed at once; others wait.", least=1)
    max_queue: int = setting(64, "Most requests that wait; further ones get status 429.", least=1)
    max_tokens: int | None = setting(
        None, "Most tokens in an answer, whatever is asked for. Default: what the context holds.", least=1
    )
    max_body_bytes: int = _bytes(8 << 20, "Most bytes in a request's body.")
    max_upload_bytes: int = _bytes(2 << 30, "Most bytes in an uploaded profile.")
    max_connections: int = setting(256, "Most open connections.", least=1)
    max_connections_per_peer: int = setting(128, "Most open connections from one address.", least=1)
    header_timeout_s: float = _seconds(
        10.0, "Seconds for the head of a request to arrive.", option="--header-timeout", most=3600
    )
    body_timeout_s: float = _seconds(20.0, "Seconds for its body to arrive.", option="--body-timeout", most=3600)
    idle_timeout_s: float = _seconds(
        30.0, "Seconds that a connection stays open between two requests.", option="--idle-timeout", most=86400
    )
    stall_timeout_s: float = _seconds(
        30.0, "Seconds that a client may take nothing of its answer.", option="--stall-timeout", most=86400
    )
    request_timeout_s: float = _seconds(600.0, "Seconds for a whole answer.", option="--request-timeout", most=86400)
    drain_s: float = setting(
        30.0, "Seconds for running answers to end after SIGTERM or Ctrl-C.", least=0, option="--drain", most=3600
    )
    keep_alive_s: float = _seconds(
        10.0, "Seconds of silence after which a stream gets a comment line.", option="--keep-alive", most=3600
    )
    ollama: bool = setting(False, "Answer Ollama's /api/tags and /api/chat too.")
    access_log: bool = setting(True, "Write a line to stderr for each request.", option="--access-log/--no-access-log")
