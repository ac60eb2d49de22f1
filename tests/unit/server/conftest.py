"""A running server for each module of tests, and tokenizers of bases with and without tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from canned_backend import CannedBackend, tool_tokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper, load
from served import Live, serving

from zen_mlx.config import ServeOptions


@pytest.fixture(scope="session")
def plain_tokenizer(tiny_model: Path) -> TokenizerWrapper:
    """Of a base whose chat template knows no tools."""
    return load(tiny_model)


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    """Of a base whose chat template knows tools."""
    return tool_tokenizer(tiny_model, tmp_path_factory.mktemp("tools") / "tiny")


@pytest.fixture(scope="module")
def _module_server(tokenizer: TokenizerWrapper) -> Iterator[Live]:
    with serving(CannedBackend(tokenizer), ServeOptions(ollama=True, keep_alive_s=0.1)) as live:
        yield live


@pytest.fixture
def live(_module_server: Live, tokenizer: TokenizerWrapper) -> Live:
    """One server a module; its backend is as new for every test."""
    _module_server.backend.__dict__.update(CannedBackend(tokenizer).__dict__)
    return _module_server
