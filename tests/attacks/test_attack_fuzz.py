"""Random damage: the outcome is the profile that was written or a FormatError, and memory stays bounded."""

import hashlib
import json
import math
import random
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zen_mlx.errors import FormatError
from zen_mlx.format.layout import arrays_of, segments
from zen_mlx.format.read import read, read_header
from zen_mlx.format.write import write

GOLDEN = Path(__file__).parent.parent / "golden"


def damage(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(out))
        action = rng.randrange(5)
        if action == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            out[at] = rng.randrange(256)
        elif action == 2:
            out[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\1\0\0\0"])
        elif action == 3:
            del out[at : at + rng.randrange(1, 9)]
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(out)


def seal(data: bytes) -> bytes:
    """Make the header's digest right again, so that the damage reaches the parser."""
    if len(data) < 64:
        return data
    size = struct.unpack_from("<Q", data, 16)[0]
    digest = hashlib.sha256(data[64 : 64 + min(size, len(data))]).digest()
    return data[:24] + digest + data[56:]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("name", ["everything.v2.bitdelta", "factors.v2.bitdelta", "exact.v2.bitdelta"])
def test_version_2(name: str, sealed: bool, tmp_path: Path) -> None:
    data, path = (GOLDEN / name).read_bytes(), tmp_path / "x.bitdelta"
    rng = random.Random(f"{name}{sealed}")
    again = tmp_path / "again.bitdelta"
    for _ in range(300):
        changed = damage(rng, data)
        changed = seal(changed) if sealed else changed
        path.write_bytes(changed)
        try:
            profile = read(path)
        except FormatError:
            continue
        # What still reads is a valid file of its own (a fact changed under a right digest), and writes as itself.
        assert sealed or changed == data
        write(profile, again)
        assert again.read_bytes() == changed


def test_version_1(tmp_path: Path) -> None:
    data, path = (GOLDEN / "exact.v1.bitdelta").read_bytes(), tmp_path / "x.bitdelta"
    rng = random.Random(1)
    for _ in range(600):
        path.write_bytes(damage(rng, data))
        try:
            profile = read(path)
        except FormatError:
            continue
        for tensor in profile.tensors.values():
            for part in tensor.parts:
                assert all(np.isfinite(array).all() for array in arrays_of(part))


def test_every_single_bit_of_the_prefix(tmp_path: Path) -> None:
    data, path = (GOLDEN / "exact.v2.bitdelta").read_bytes(), tmp_path / "x.bitdelta"
    for bit in range(64 * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(FormatError):
            read(path)


def test_random_bytes(tmp_path: Path) -> None:
    rng, path = random.Random(2), tmp_path / "x.bitdelta"
    for start in (b"", b"BITDELTA", b"BITDELTA\1\0\0\0\0\0\0\0", b"BITDELTA\2\0\0\0\0\0\0\0\x40" + bytes(7)):
        for _ in range(100):
            path.write_bytes(start + rng.randbytes(rng.randrange(300)))
            with pytest.raises(FormatError):
                read(path)


PROBE = """
import resource, sys
from zen_mlx.errors import FormatError
from zen_mlx.format.read import read
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before = peak()
try:
    read(sys.argv[1])
    found = "read"
except FormatError:
    found = "refused"
print(found, peak() - before)
"""


def sealed_header(text: bytes, payload: bytes = b"") -> bytes:
    text += b" " * (-len(text) % 64)
    return struct.pack("<8sIIQ32s8x", b"BITDELTA", 2, 0, len(text), hashlib.sha256(text).digest()) + text + payload


def facts(tensors: bytes, strings: bytes, layout: bytes, payload: bytes = b"") -> bytes:
    digest = hashlib.sha256(hashlib.sha256(payload).digest()).hexdigest().encode()
    return sealed_header(
        b'{"base":{},"layouts":[['
        + layout
        + b']],"metrics":{},"model_count":1,"payload_sha256":"'
        + digest
        + b'","profile":{"name":"x"},"strings":'
        + strings
        + b',"target_count":1,"tensors":['
        + tensors
        + b"]}",
        payload,
    )


MANY = 65_536
NAMES = b"[" + b",".join(sorted(b'"%05d"' % index for index in range(MANY))) + b"]"
NAMES = b'["",' + NAMES[1:]
DENSE = b'{"dtype":"f16","kind":"dense"}'
SIGN = b'{"dtype":"f16","kind":"sign","scale":"rowcol"}'
FACTOR = b'{"dtype":"f16","groups":[[32,1],[16,1],[8,1],[4,1],[2,1],[1,1]],"kind":"factor","u":true,"v":true}'
ONE_BIT = b'{"dtype":"f16","groups":[[1,%d]],"kind":"factor","u":false,"v":false}'
ROWS = b'{"dtype":"f16","kind":"rows"}'
(*_, LAST) = segments([json.loads(FACTOR)], (6, 6), None)
GROUPED_BYTES = LAST.offset + LAST.nbytes
BOMBS = {
    "a huge rank": lambda: facts(b"[0,0,[2147483647,2147483647],0]", b'["w"]', ONE_BIT % (2**31 - 1)),
    "as high a rank as fits the matrix": lambda: facts(
        b"[0,0,[65536,65536],0]", b'["w"]', ONE_BIT % 65_536, bytes(4096)
    ),
    "a huge number of rows": lambda: facts(b"[0,0,[2147483647,2147483647],0,2147483647]", b'["w"]', ROWS),
    "many groups": lambda: facts(
        b",".join(b"[0,%d,[6,6],0]" % (index + 1) for index in range(MANY)),
        NAMES,
        b",".join([FACTOR] * 16),
        bytes(64 * MANY),
    ),
    "as many groups as there may be": lambda: facts(
        b",".join(b"[0,%d,[6,6],0]" % (index + 1) for index in range(10_000)),
        NAMES[: 3 + 8 * 10_000] + b"]",
        FACTOR,
        bytes(192 * 9_999 + GROUPED_BYTES),
    ),
    "as many rows parts as there may be": lambda: facts(
        b",".join(b"[0,%d,[1,1],0,1]" % (index + 1) for index in range(MANY)),
        NAMES,
        ROWS,
        (bytes(64) * (MANY - 1)) + bytes(6),
    ),
    "huge shape": lambda: facts(b"[0,0,[2147483647,2147483647],0]", b'["w"]', DENSE),
    "eight huge dimensions": lambda: facts(b"[0,0,[" + b",".join([b"65536"] * 8) + b"],0]", b'["w"]', DENSE),
    "long shared names": lambda: facts(
        b",".join(b"[0,%d,[1],0]" % (index + 1) for index in range(9)), b'["' + b"0" * 7_000_000 + b'."]', DENSE
    ),
    "arrays in arrays": lambda: sealed_header(b"[" + b"[]," * 2_700_000 + b"[]]"),
    "wide text": lambda: sealed_header(b'{"a":"' + b"a" * 8_000_000 + '𝄞"}'.encode()),
    "as many tensors as there may be": lambda: facts(
        b",".join(b"[0,%d,[1,1],0]" % (index + 1) for index in range(MANY)),
        NAMES,
        SIGN,
        (bytes(64) * (MANY - 1)) + bytes(10),
    ),
    "sixteen parts each": lambda: facts(
        b",".join(b"[0,%d,[1,1],0]" % (index + 1) for index in range(MANY)),
        NAMES,
        b",".join([SIGN] * 16),
        bytes(192 * MANY),
    ),
}


def v1_file(count: int, *blocks: bytes) -> bytes:
    return struct.pack("<8sIIIcfQ", b"BITDELTA", 1, 0, 1, b"m", 9.0, count) + b"".join(blocks)


def v1_block(name: bytes, shape: tuple[int, ...], scales: int = 1) -> bytes:
    head = struct.pack("<I", len(name)) + name + struct.pack(f"<{len(shape) + 1}I", len(shape), *shape)
    return head + bytes(-(-math.prod(shape) // 8)) + struct.pack("<I", scales) + bytes(4 * scales)


VERSION_1 = {
    "rows of one column": lambda: v1_file(12_000_000, v1_block(b"w", (12_000_000, 1))),
    "a long row": lambda: v1_file(8 * 50_000_003, v1_block(b"w", (8, 50_000_003))),
    "a long vector": lambda: v1_file(12_000_000, v1_block(b"w", (12_000_000,))),
    "odd rows": lambda: v1_file(40_001 * 7_001, v1_block(b"w", (40_001, 7_001), 40_001)),
    "many blocks": lambda: v1_file(65_536, *(v1_block(b"w%d" % index, (1, 1)) for index in range(65_536))),
    "many experts": lambda: v1_file(65_536, *(v1_block(b"a.weight.%d" % index, (1, 1)) for index in range(65_536))),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("shape", VERSION_1)
def test_version_1_memory_stays_under_the_file_and_64_mib(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    path.write_bytes(VERSION_1[shape]())
    out = subprocess.run([sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=True).stdout
    found, kib = out.split()
    assert found == "read"
    assert int(kib) * 1024 < path.stat().st_size + (64 << 20)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_memory_stays_under_the_file_and_64_mib(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    path.write_bytes(BOMBS[bomb]())
    out = subprocess.run([sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=True).stdout
    found, kib = out.split()
    assert int(kib) * 1024 < path.stat().st_size + (64 << 20)
    assert found == ("read" if bomb.startswith("as many") else "refused"), out


def test_a_sparse_file_costs_no_memory_before_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    path.write_bytes(facts(b"[0,0,[1048576,1048576],0]", b'["w"]', DENSE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError):
        read_header(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10
