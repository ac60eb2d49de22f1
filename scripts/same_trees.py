"""Show that a commit only moves and renames: every function's syntax tree is equal before and after but for names and imports.

    python scripts/same_trees.py BEFORE [AFTER]      two commits; AFTER is the working tree when it is left out

Compared are all functions, methods, classes and module-level statements of the package, as a multiset, whatever file they
lie in. Left out of the comparison are names, docstrings, imports, `__all__` and strings that are dotted names. Exit status
1 and a list of what differs where anything does.
"""

from __future__ import annotations

import argparse
import ast
import collections
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOTTED = re.compile(r"\.?[a-z_]+(\.\w+)*")
NAMES = ("id", "attr", "arg", "name", "asname", "module")


class Nameless(ast.NodeTransformer):
    """Takes out what a move may change; `module.name` is a name too, for the `imported` modules of the file."""

    def __init__(self, imported: set[str]) -> None:
        self.imported = imported

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self.imported:
            return ast.Name("_", node.ctx)
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in NAMES:
            if isinstance(getattr(node, field, None), str):
                setattr(node, field, "_")
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not isinstance(each, ast.Import | ast.ImportFrom) and not is_text(each)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
        return super().generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str) and DOTTED.fullmatch(node.value):
            return ast.Constant("_")
        return node


def is_text(node: ast.stmt) -> bool:
    """Whether `node` is a docstring, or a string that stands for one below a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_layout(node: ast.stmt) -> bool:
    """Whether `node` is an import or `__all__`: what a move must change."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True
    named = isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "__all__" for to in node.targets)
    return named or is_text(node) or isinstance(node, ast.Import | ast.ImportFrom)


def statements(source: str) -> Iterator[tuple[str, str]]:
    """(first line, tree without names) of every module-level statement."""
    module = ast.parse(source)
    imports = [node for node in ast.walk(module) if isinstance(node, ast.Import | ast.ImportFrom)]
    bound = {alias.asname or alias.name for node in imports for alias in node.names}
    imported = {name for name in bound if name.islower()}  # a module; a type or a constant is not
    for node in module.body:
        if not is_layout(node):
            yield ast.unparse(node).partition("\n")[0], ast.dump(Nameless(imported).visit(node))


def sources(commit: str | None) -> Iterator[str]:
    """The text of every module of the package."""
    if commit is None:
        for path in sorted((ROOT / "zen_mlx").rglob("*.py")):
            yield path.read_text(encoding="utf-8")
        return
    listed = git("ls-tree", "-r", "--name-only", commit, "zen_mlx/").splitlines()
    for name in listed:
        if name.endswith(".py"):
            yield git("show", f"{commit}:{name}")


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER", nargs="?")
    given = parser.parse_args()
    trees: list[collections.Counter[str]] = []
    lines: dict[str, str] = {}
    for commit in (given.before, given.after):
        if (
            commit is not None
            and subprocess.run(["git", "rev-parse", "-q", "--verify", commit], cwd=ROOT, capture_output=True).returncode
        ):
            parser.error(f"no such commit: {commit}")
        found = [pair for source in sources(commit) for pair in statements(source)]
        trees.append(collections.Counter(tree for _, tree in found))
        lines |= {tree: line for line, tree in found}
    before, after = trees
    for sign, rest in (("-", before - after), ("+", after - before)):
        for tree in rest.elements():
            print(sign, lines[tree])
    if before != after:
        sys.exit(1)
    print(f"{before.total()} statements, equal but for names and imports")


if __name__ == "__main__":
    main()
