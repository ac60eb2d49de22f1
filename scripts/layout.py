"""The layout of the package: no import circle, no module over 300 lines, no module name in two packages but those listed.

Exit status 1 and a line for each problem where there is one. Every import counts: at the top, under TYPE_CHECKING and
inside functions. `lint-imports` checks the layers.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "zen_mlx"
MOST_LINES = 300

COMMAND = "the command, and what it does"
SHARED: Mapping[str, str] = {
    "chat": COMMAND,
    "compress": COMMAND,
    "train": COMMAND,
    "closed_form": "what a delta becomes without training: of one tensor, and of a whole fine-tune",
    "errors": "our errors, and what the hub's become",
    "factor": "low-rank factors: their bytes, their product, their training",
    "merge": "a delta into a base weight, and profiles into one",
    "plot": "the picture of an evaluation, and of a training run",
}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file; a package is its `__init__.py`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules of `known` that module `name` imports, wherever in its text."""
    home = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            inner = {alias.name: f"{source}.{alias.name}" for alias in node.names}
            found |= {full if full in known else source for full in inner.values()}
    return (found & known.keys()) - {name}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one import circle in order, empty where there is none."""
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name not in done:
            for other in sorted(graph[name]):
                if found := visit(other, [*above, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def problems(package: Path, shared: Mapping[str, str] = SHARED) -> Iterator[str]:
    """A sentence for each rule that is broken."""
    known = modules(package)
    if found := circle({name: imports(name, path, known) for name, path in known.items()}):
        yield f"import circle: {' -> '.join(found)}"
    homes = defaultdict(list)
    for name, path in known.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            yield f"{name}: {lines} lines, more than {MOST_LINES}"
        if path.name not in ("__init__.py", "__main__.py"):
            homes[path.stem].append(name)
    for stem, names in sorted(homes.items()):
        if len(names) > 1 and stem not in shared:
            yield f"one module name in several packages: {', '.join(names)}"
    for stem in shared:
        if len(homes[stem]) < 2:
            yield f"{stem}: listed in SHARED, but no two packages have it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    found = list(problems(PACKAGE))
    print("\n".join(found) or f"{len(modules(PACKAGE))} modules, laid out as they should be")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
