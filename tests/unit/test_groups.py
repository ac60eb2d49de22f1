"""Which tests stay on one worker of `pytest -n`: the groups of tests/conftest.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def groups(pytestconfig: pytest.Config) -> ModuleType:
    found = pytestconfig.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    assert isinstance(found, ModuleType)
    return found


def test_files_and_folders_of_groups_exist(groups: ModuleType) -> None:
    files = list(TESTS.rglob("test_*.py"))
    parts = {part for file in files for part in file.relative_to(TESTS).parts}
    assert {file.name for file in files} >= groups.ALONE
    assert parts >= groups.WHOLE


def test_groups(groups: ModuleType) -> None:
    of = groups.group_of
    assert of("tests/e2e/test_chat.py::test_a[x/y::z@w]") == of("tests/fault/test_train_kill.py::test_b") == "alone"
    assert of("tests/e2e/test_vocabulary.py::test_a") == of("tests/e2e/test_vocabulary.py::test_b")
    assert of("tests/e2e/test_vocabulary.py::test_a") != of("tests/e2e/test_wheel.py::test_a")
    assert of("tests/unit/test_stored.py::test_a") != of("tests/unit/test_stored.py::test_b")
