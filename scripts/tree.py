"""The file tree of ARCHITECTURE.md, one line a file, from the files' own first lines."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
OTHERS = {
    "README.md": "what it is, the two commands, your own data",
    "ARCHITECTURE.md": "this page",
    "CONTRIBUTING.md": "how to add a kernel, an importer, a training method, a foreign format; style; tests",
    "SECURITY.md": "what is trusted and what is not; how to report a problem",
    "CHANGELOG.md": "what a user notices",
    "docs/README.md": "the index of these pages",
    "docs/benchmarks.md": "what was measured, with the commands",
    "docs/compress.md": "how a fine-tune becomes a profile of the size you ask for",
    "docs/data.md": "what data can be trained on, and what is dropped or scrubbed",
    "docs/evaluation.md": "every measure of zen eval as an equation, and how to read it",
    "docs/format.md": "the .bitdelta file, byte by byte",
    "docs/how-it-works.md": "the idea in ten sentences, and its limits",
    "docs/how-it-works.svg": "the picture of it",
    "docs/kernels.md": "the one operation, which kernel computes it, and how that is tested without a GPU",
    "docs/proxy-haproxy.cfg": "several servers behind HAProxy, a profile always at the same one",
    "docs/proxy-nginx.conf": "several servers behind nginx, a profile always at the same one",
    "docs/serving.md": "zen serve and the Python backend: many profiles at once",
    "docs/models.md": "which families of models were run, and what is a target in each",
    "docs/training.md": "the equations of training, and why they are these",
    "docs/usage.md": "the commands by what you want to do, and the Python interface",
    "cuda_kernels/": "CUDA sources, shipped in the wheel",
    "examples/": "four data sets written by people, and a ready-made profile of each",
    "metal_kernels/": "Metal sources, shipped in the wheel",
    "findings/": "surprises in other people's software, each a script that shows one",
    "scripts/peers": "our exports in PEFT and transformers, in an environment of their own",
    "scripts/quickstart": "install and run the demo",
    "scripts/test": "every check",
    "tests/attacks/": "hostile files: one test per rejection, and random damage",
    "tests/e2e/": "whole commands, whole models, the wheel",
    "tests/emulators/": "Metal and CUDA kernels on a CPU, lane by lane",
    "tests/face/": "records the public face: commands, documents, files, errors, variables, Python names",
    "tests/fault/": "kills, full disks, broken connections",
    "tests/golden/": "committed files that must always read the same",
    "tests/parity/": "every kernel and layer against the equation in float64, and mutants that must fail",
    "tests/property/": "random profiles survive writing and reading",
    "tests/scrubbing/": "made-up secrets, harmless texts and prose, and what is left of them",
    "tests/unit/": "one module each, in the same folders as the package",
}
BLOCK = re.compile(r"(?<=## The tree\n\n```text\n).*?(?=```)", re.DOTALL)


def first_line(file: Path) -> str:
    match = re.match(r'\s*"""\s*(.+)', file.read_text(encoding="utf-8"))
    text = match.group(1).rstrip('"') if match else ""
    return re.split(r"(?<=[a-z)`])\. (?=[A-Z])", text)[0].rstrip(". ")


def tree() -> str:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = sorted(
        name
        for name in listed.stdout.splitlines()
        if name.endswith(".py") and name.startswith(("zen_mlx/", "scripts/")) and (ROOT / name).exists()
    )
    entries = {name: first_line(ROOT / name) for name in modules} | OTHERS
    lines = []
    last = "."
    for name in sorted(entries, key=_order):
        folder = Path(name).parent.as_posix()
        if folder != last:
            last = folder
            if folder != ".":
                lines.append(f"{folder}/")
        label = name if folder == "." else f"  {Path(name).name}{'/' * name.endswith('/')}"
        lines.append(f"{label:<22}  {entries[name]}")
    return "\n".join(lines) + "\n"


def _order(name: str) -> tuple[bool, bool, str, str]:
    """The package first, then the other folders, then the pages at the top."""
    folder = Path(name).parent.as_posix()
    return name.split("/")[0] != "zen_mlx", "/" not in name, folder if folder != "." else "", name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page has another tree")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    wanted = BLOCK.sub(lambda _: tree(), text, count=1)
    if not check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != text:
        sys.exit(f"{PAGE.name}: the tree is not what the files say; run scripts/tree.py")


if __name__ == "__main__":
    main()
