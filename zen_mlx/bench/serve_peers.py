"""What many personal models cost without a shared batch: one process a model, and mlx-lm's server with its adapters."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import mlx.core as mx
from mlx_lm.generate import batch_generate

from ..adapter.resident import Resident
from ..adapter.targets import targets
from ..base.load import load_base
from ..base.pull import pull
from ..base.registry import DEFAULT_MODEL
from ..config import Sampling
from ..engine.backend import Backend
from ..engine.decoding import render
from ..engine.request import Request
from ..errors import ZenError
from ..events import Progress
from ..format.read import read, read_header
from ..format.spec import Facts
from ..format.write import write
from ..fsio import Json
from ..interop.export_lora import write_adapter
from .decode import subjects
from .machine import memory_bytes
from .paper_latency import resident_set_bytes
from .process import in_new_process
from .serve_profiles import NoText, prompts, words_of
from .synthetic import random_factors

MODELS = 8
_TOKENS = 32
_ANSWER_TOKENS = 16
_REPEATS = 3
_START_S = 120.0
# With the BLAS that zen_mlx brings, or mlx-lm would be several times slower on Linux for a reason that is not its own.
_SERVER = "import zen_mlx; from mlx_lm.server import main; main()"


class _Plain(NoText):
    def decode(self, tokens: Sequence[int]) -> str:
        return ""


def measure_peers(report: Progress) -> Json:
    """ "processes": eight of them, computed from one. "servers": the row of `server_row` of mlx-lm's server, then of ours."""
    report("one process a model", 0, 3)
    processes = _processes()
    with tempfile.TemporaryDirectory(prefix="zen-bench-") as folder:
        files = in_new_process(_write_pair, Path(folder))
        report("mlx_lm.server", 1, 3)
        theirs = _mlx_lm_server([str(folder) for _, folder in files])
        report("the same with one batch", 2, 3)
        ours = in_new_process(_backend, [file for file, _ in files])
    report("the same with one batch", 3, 3)
    return {"processes": processes, "servers": [theirs, ours]}


def _processes() -> Json:
    """Eight merged models, a process each, answer one request at a time each: computed from one process, for what they share
    is one machine, which reads a whole model for every token. None where one does not fit."""
    subject = subjects()[0]
    if 1.5 * subject.needed_bytes > memory_bytes():
        return {"model": subject.label, "models": MODELS, "tokens_per_s": None, "process_bytes": None, "computed": True}
    speed, size = in_new_process(_one_process, _TOKENS)
    return {
        "model": subject.label,
        "models": MODELS,
        "tokens_per_s": speed,
        "process_bytes": size,
        "all_bytes": MODELS * size,
        "computed": True,
    }


def _one_process(tokens: int) -> tuple[float, int]:
    """(tokens per second of one stream of mlx-lm's `batch_generate`, bytes of the process); a merged model is a plain one."""
    model = subjects()[0].make()
    mx.clear_cache()
    asked, tokenizer = prompts(1, words_of(model)), cast(Any, _Plain())
    batch_generate(model, tokenizer, asked, max_tokens=2)
    speeds = [batch_generate(model, tokenizer, asked, max_tokens=tokens).stats.generation_tps for _ in range(_REPEATS)]
    return statistics.median(speeds), max(resident_set_bytes(), int(mx.get_active_memory()))


def _write_pair(folder: Path) -> list[tuple[Path, Path]]:
    """(profile, the same as mlx-lm's adapter) of two random factor profiles of the embedded base."""
    model, _ = load_base(DEFAULT_MODEL)
    written = []
    for index in range(2):
        groups = dict.fromkeys(targets(model), ((4, 8),))  # one rank for all: an adapter has no other
        profile = random_factors(model, f"peer-{index}", index, groups, 1e-5)
        file, adapter = folder / f"{index}.bitdelta", folder / f"adapter-{index}"
        adapter.mkdir()
        write(profile, file)
        write_adapter(read(file), model, adapter, "mlx-lm", None)
        written.append((file, adapter))
    return written


def server_row(name: str, ask: Callable[[int, str], int]) -> Json:
    """Seconds of a request for 16 tokens, by what was asked before it; ask(profile, prompt) gives how many came.

    "new_s": a profile that was never asked for before; "same_s": the profile of the request before; "other_s": two
    profiles in turn, both asked for before; "eight_s": eight requests at once, of the two profiles in turn, until the last
    has its answer. Medians of three; every prompt is new.
    """
    numbers = itertools.count(1)

    def seconds(*profiles: int) -> float:
        asked = [f"Count from {next(numbers)} to one hundred, and say nothing else." for _ in profiles]
        with ThreadPoolExecutor(len(profiles)) as pool:
            start = time.perf_counter()
            for tokens in pool.map(ask, profiles, asked):
                if tokens != _ANSWER_TOKENS:
                    raise ZenError("an answer ended early", field=name, expected=_ANSWER_TOKENS, found=tokens)
            return time.perf_counter() - start

    seconds(0)
    new = seconds(1)
    same = [seconds(1) for _ in range(_REPEATS)]
    other = [seconds(index % 2) for index in range(2 * _REPEATS)]
    eight = [seconds(*(index % 2 for index in range(MODELS))) for _ in range(_REPEATS)]
    return {
        "server": name,
        "tokens": _ANSWER_TOKENS,
        "new_s": new,
        "same_s": statistics.median(same),
        "other_s": statistics.median(other),
        "eight_s": statistics.median(eight),
    }


def _mlx_lm_server(adapters: Sequence[str]) -> Json:
    folder = str(pull(DEFAULT_MODEL))
    with _started(folder) as url:

        def ask(profile: int, prompt: str) -> int:
            body = {
                "model": folder,
                "adapters": adapters[profile],
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": _ANSWER_TOKENS,
                "temperature": 0,
            }
            return int(_post(f"{url}/v1/chat/completions", body)["usage"]["completion_tokens"])

        return server_row("mlx_lm.server, adapters", ask)


@contextlib.contextmanager
def _started(folder: str) -> Iterator[str]:
    """The address of an mlx_lm.server of its own on loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["--model", folder, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(URLError, OSError), urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(0.2)
    raise ZenError("mlx_lm.server did not start", found=process.poll())


def _post(url: str, body: Json) -> Any:
    sent = HttpRequest(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(sent, timeout=600) as answer:
        return json.load(answer)


class _Files:
    """`backend.Profiles` of files by number."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = {str(index): file for index, file in enumerate(files)}

    def names(self) -> list[str]:
        return list(self._files)

    def key(self, name: str) -> str:
        return name

    def facts(self, name: str) -> Facts:
        return read_header(self._files[name])

    def load(self, name: str) -> Resident:
        return Resident.from_profile(read(self._files[name]))


def _backend(files: Sequence[Path]) -> Json:
    """The backend of this library, without HTTP."""
    backend = Backend(
        DEFAULT_MODEL,
        lambda: load_base(DEFAULT_MODEL),
        _Files(files),
        streams=MODELS,
        queue_limit=MODELS,
        most_profiles=MODELS,
        cache_bytes=1 << 28,
    )
    sampling = Sampling(max_tokens=_ANSWER_TOKENS, temperature=0.0)

    def ask(profile: int, prompt: str) -> int:
        with backend.tokenizing:
            ids = render(backend.tokenizer, [{"role": "user", "content": prompt}])
        return sum(piece.tokens for piece in backend.open(Request(ids, str(profile), sampling)))

    with backend:
        return server_row("zen, one batch", ask)
