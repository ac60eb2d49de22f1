# Shared by quickstart and test: `make_environment EXTRAS` gives a virtual environment in .venv with zen_mlx and its needs.

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
fail() { say "$*"; exit 1; }

find_python() {
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is missing: install it (https://www.python.org, brew install python, apt install python3) and run this again"
}

make_environment() {
  extras=$1
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python) || exit 1
    say "making a virtual environment in .venv with $python"
    "$python" -m venv .venv || fail "Python's venv module is incomplete: apt install python3-venv (Debian, Ubuntu), then run this again"
  fi
  stamp=".venv/zen-$extras-$(cksum < pyproject.toml | tr -d ' ')"
  if [ ! -f "$stamp" ]; then
    say "installing zen_mlx[$extras] and what it needs (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" \
      || fail "pip could not install zen_mlx: see its message above; with the network back, run this again"
    touch "$stamp"
  fi
}
