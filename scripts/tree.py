"""The file tree of README.md, one line a file, from the files' own first lines: `tree.py` rewrites it, `--check` compares."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
OTHERS = {
    "docs/benchmarks.md": "what was measured, with the commands",
    "docs/compress.md": "how a fine-tune becomes a profile of the size you ask for",
    "docs/data.md": "what data can be trained on, and what is dropped or scrubbed",
    "docs/evaluation.md": "every measure of zen eval as an equation, and how to read it",
    "docs/format.md": "the .bitdelta file, byte by byte",
    "docs/kernels.md": "the one operation, which kernel computes it, and how that is tested without a GPU",
    "docs/models.md": "which families of models were run, and what is a target in each",
    "docs/training.md": "the equations of training, and why they are these",
    "docs/how-it-works.svg": "the picture above",
    "cuda_kernels/": "CUDA sources, shipped in the wheel",
    "examples/": "four data sets written by people, and a ready-made profile of each",
    "metal_kernels/": "Metal sources, shipped in the wheel",
    "scripts/quickstart": "install and run the demo",
    "scripts/test": "every check",
    "tests/": "unit, property, parity, golden, attacks, fault, e2e",
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
    last = ""
    for name in sorted(entries, key=lambda name: (name.split("/")[0] != "zen_mlx", Path(name).parent.as_posix(), name)):
        folder = Path(name).parent.as_posix()
        if folder not in (last, ".") and not name.endswith("/"):
            lines.append(f"{folder}/")
            last = folder
        label = name if name.endswith("/") else f"  {Path(name).name}"
        lines.append(f"{label:<22}  {entries[name]}")
    return "\n".join(lines) + "\n"


text = README.read_text(encoding="utf-8")
wanted = BLOCK.sub(lambda _: tree(), text, count=1)
if sys.argv[1:] == ["--check"]:
    if wanted != text:
        sys.exit("README.md: the tree is not what the files say; run scripts/tree.py")
else:
    README.write_text(wanted, encoding="utf-8")
