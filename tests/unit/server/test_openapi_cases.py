"""schemathesis over the OpenAPI document: no 5xx, no status or media type that it does not name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from served import Live

TESTS = Path(__file__).parents[2]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_made_up_requests_get_what_the_document_says(live: Live, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{live.url}/openapi.json"]
    options = ["--checks", CHECKS, "--phases", "fuzzing", "--max-examples", "4", "--seed", "17", "--no-color"]
    done = subprocess.run(
        [*command, *options],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "11 passed" in done.stdout
    assert live.backend.asked
