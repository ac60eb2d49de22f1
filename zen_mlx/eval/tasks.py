"""Tasks of lm-eval (MMLU, GSM8K, IFEval, HumanEval, ... or a task file of one's own) on a model with its profile attached.

mlx-lm's own wrapper answers lm-eval's requests, given a model instead of a path. The network is not touched unless the
caller says so: a task's data that is not on this machine is an error that says how to get it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, DataError, InputError
from ..fsio import Json
from ..hub.settings import offline
from .answers import INSTALL

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

BATCH_ROWS = 8
_BOOTSTRAPS = 1000
_SEED = 1234
_SUFFIXES = (".yaml", ".yml")


def load_tasks(names: Sequence[str], *, download: bool = False, run_code: bool = False) -> dict[str, Json]:
    """lm-eval's table of tasks and groups of these names or files, their data loaded.

    A relative `data_files` is looked for beside the task file. ConfigError without lm-eval, for an unknown name, and for a
    task that runs the model's code unless `run_code`; DataError for data that is not here and may not be fetched.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("tasks need lm-eval, which is not installed", field="tasks", hint=INSTALL)
    with _network(download), _quiet():
        if run_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"
        from lm_eval.tasks import TaskManager

        files = [name for name in names if name.endswith(_SUFFIXES)]
        for name in files:
            if not Path(name).is_file():
                raise ConfigError("no such task file", path=name, field="tasks")
        manager = TaskManager(include_defaults=len(files) < len(names))
        table: dict[str, Json] = {"tasks": {}, "groups": {}, "group_map": {}}
        for name in names:
            for kind, found in _load(manager, name, download, run_code).items():
                table[kind].update(found)
    for task in table["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    return table


def run_tasks(
    model: nn.Module, tokenizer: TokenizerWrapper, tasks: dict[str, Json], limit: int | None = None
) -> dict[str, dict[str, float]]:
    """{task or group: {metric: value}} of the first `limit` documents of each task; `_stderr` beside a metric.

    Prompts go through the model's chat template where it has one. A metric of another filter than lm-eval's first is named
    `metric,filter`.
    """
    with _network(False), _quiet():
        import mlx.core as mx
        from lm_eval.evaluator import evaluate  # `simple_evaluate` is this and a survey of the machine, each time

        wrapped = _wrap(model, tokenizer)
        for seed in (random.seed, np.random.seed, mx.random.seed):
            seed(_SEED)
        found = evaluate(
            lm=wrapped,
            task_dict=tasks,
            limit=limit,
            apply_chat_template=wrapped.use_chat_template,
            fewshot_as_multiturn=wrapped.use_chat_template,
            bootstrap_iters=_BOOTSTRAPS,
            log_samples=False,
            confirm_run_unsafe_code=os.environ.get("HF_ALLOW_CODE_EVAL") == "1",
        )
    return {name: _numbers(values) for name, values in {**found["results"], **found.get("groups", {})}.items()}


def _wrap(model: nn.Module, tokenizer: TokenizerWrapper) -> Any:
    """mlx-lm's `MLXLM` around a model that is in memory: all that its constructor does besides loading one."""
    from lm_eval.api.model import LM
    from mlx_lm.evaluate import MLXLM

    wrapped = MLXLM.__new__(MLXLM)
    LM.__init__(wrapped)
    wrapped._model, wrapped.tokenizer = model, tokenizer
    wrapped._max_tokens, wrapped._batch_size, wrapped._sampler = None, BATCH_ROWS, None
    wrapped.use_chat_template = getattr(tokenizer, "chat_template", None) is not None
    return wrapped


def _numbers(values: Json) -> dict[str, float]:
    out = {}
    for key, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "," in key:
            metric, filtered = key.split(",", 1)
            out[metric if filtered == "none" else key] = float(value)
    return out


def _load(manager: Any, name: str, download: bool, run_code: bool) -> dict[str, Json]:
    file = Path(name).resolve() if name.endswith(_SUFFIXES) else None
    if file is None and name not in manager.all_tasks:
        raise ConfigError("there is no such task", field="tasks", found=name, hint="lm-eval ls tasks")
    try:
        with contextlib.chdir(file.parent) if file is not None else contextlib.nullcontext():
            loaded = manager.load([name if file is None else str(file)])
    except Exception as error:  # a task's file, its code and the data's loader raise what they like
        raise _refusal(name, error, download) from error
    for each in loaded["tasks"].values():
        if getattr(each, "UNSAFE_CODE", False) and not run_code:
            raise _runs_code(name)
    return {kind: dict(loaded.get(kind) or {}) for kind in ("tasks", "groups", "group_map")}


def _refusal(name: str, error: Exception, download: bool) -> InputError:
    text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if isinstance(error, ModuleNotFoundError):
        return ConfigError(f"the task {name} needs a package that is not installed", field="tasks", found=error.name)
    if "HF_ALLOW_CODE_EVAL" in str(error):
        return _runs_code(name)
    if not download and not name.endswith(_SUFFIXES):
        return DataError(
            f"the data of the task {name} is not on this machine",
            field="tasks",
            found=text,
            hint="--download fetches it from the hub, once; after that it stays here",
        )
    return DataError(f"the task {name} cannot be loaded", field="tasks", found=text)


def _runs_code(name: str) -> ConfigError:
    return ConfigError(
        f"the task {name} runs code that the model writes, on this machine, with your rights",
        field="tasks",
        hint="--run-code allows it",
    )


@contextlib.contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Within the block the hub's libraries are offline unless `allowed`, whatever they read at import."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")
    if allowed:
        yield
        return
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        import datasets
        import evaluate
        import nltk

        places: list[tuple[Any, str, Any]] = [
            (datasets.config, "HF_HUB_OFFLINE", True),
            (datasets.config, "HF_DATASETS_OFFLINE", True),
            (evaluate.config, "HF_EVALUATE_OFFLINE", True),
            (nltk, "download", lambda *_, **__: False),
        ]
        with offline(), contextlib.ExitStack() as stack:
            for place, key, value in places:
                stack.callback(setattr, place, key, getattr(place, key))
                setattr(place, key, value)
            yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval, mlx-lm and datasets print, warn and log as they go: nothing of it is on stdout, and bars are for a terminal."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate", "transformers")]
    levels = [logger.level for logger in loggers]
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)  # an error is raised too, and said once, by us
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
