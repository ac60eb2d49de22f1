#!/usr/bin/env bash
# pytest-xdist 3.8.0 promises that tests with the same `xdist_group` mark run on one worker under `--dist loadgroup`.
# With pytest 9.1.1 they do; with pytest 9.2.0 the mark is ignored without a word, and the group runs on both workers.
# Seen on Linux, Python 3.11. Fails when either behaviour changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
cat > test_group.py <<'PY'
import os

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(40))
def test_worker(number):
    with open("workers.txt", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PY
workers() {
  python3 -m venv "env-$1"
  "env-$1/bin/python" -m pip install --quiet "pytest==$1" pytest-xdist==3.8.0
  rm -f workers.txt
  "env-$1/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup test_group.py >/dev/null
  sort -u workers.txt | wc -l
}
before=$(workers 9.1.1)
after=$(workers 9.2.0)
echo "pytest-xdist 3.8.0, one group of 40 tests: $before worker(s) with pytest 9.1.1, $after with pytest 9.2.0"
[ "$before" = 1 ] && [ "$after" = 2 ]
