"""Every test has its own ZEN_HOME and no hub; the embedded base is fetched and converted once per machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import zen_mlx  # noqa: F401  before any mlx: it brings the fast BLAS

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ZEN_HOME", str(home / "zen"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """A ZEN_HOME kept between test runs: `$ZEN_TEST_CACHE`, else `.cache/` in the repository."""
    return Path(os.environ.get("ZEN_TEST_CACHE") or REPOSITORY / ".cache").absolute()


@pytest.fixture(scope="session")
def embedded_base(test_cache: Path) -> Path:
    """The folder of the converted embedded base."""
    from zen_mlx.base.pull import pull

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZEN_HOME", str(test_cache))
        return pull("smollm2-135m")


@pytest.fixture
def with_embedded_base(embedded_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ZEN_HOME in which the embedded base and its digests are already there; its folder."""
    from zen_mlx.names import base_dir, digest_cache_path

    folder = base_dir("smollm2-135m")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(embedded_base, target_is_directory=True)
    digests = embedded_base.parent.parent / "digests.json"
    if digests.is_file():
        digest_cache_path().write_bytes(digests.read_bytes())
    return folder
