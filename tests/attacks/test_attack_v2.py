"""One test per rejection of version 2: valid bytes, one rule broken, digests made right again behind the break."""

import copy
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zen_mlx.errors import FormatError, InputError, UnsupportedFormat
from zen_mlx.format.read import read, read_header

PIECE = 4 << 20


def dumps(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def payload_digest(payload: bytes) -> str:
    digests = [hashlib.sha256(payload[at : at + PIECE]).digest() for at in range(0, len(payload), PIECE)]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def build(text: bytes, payload: bytes, *, pad: int = 0) -> bytes:
    text += b" " * (-len(text) % 64 + pad)
    return struct.pack("<8sIIQ32s8x", b"BITDELTA", 2, 0, len(text), hashlib.sha256(text).digest()) + text + payload


def valid() -> tuple[dict[str, Any], bytearray]:
    """Four tensors: sign rowcol [3, 40] f16, dense [5] f32, two block planes [2, 2, 33] f32, sign row [3, 40] f16."""
    header = {
        "profile": {"name": "p", "created": "2026-01-02T03:04:05Z", "tool": "0.1.0"},
        "base": {"model": "m", "verified": True},
        "metrics": {"loss": 3.5, "data": "ab" * 32},
        "target_count": 100,
        "model_count": 200,
        "layouts": [
            [{"kind": "sign", "scale": "rowcol", "dtype": "f16"}],
            [{"kind": "dense", "dtype": "f32"}],
            [{"kind": "sign", "scale": "block", "block": 32, "dtype": "f32"}] * 2,
            [{"kind": "sign", "scale": "row", "dtype": "f16"}],
        ],
        "strings": ["", "a.0.", "a.1.", "bias", "gate", "w", "z"],
        "tensors": [[1, 3, [5], 1], [1, 5, [3, 40], 0], [2, 4, [2, 2, 33], 2], [0, 6, [3, 40], 3]],
    }
    header["layouts"] = [header["layouts"][1], header["layouts"][0], *header["layouts"][2:]]
    header["tensors"] = [[1, 3, [5], 0], [1, 5, [3, 40], 1], [2, 4, [2, 2, 33], 2], [0, 6, [3, 40], 3]]
    dense = np.arange(5, dtype="<f4").tobytes()
    bits = np.array([[5, 1], [6, 2], [7, 128]], dtype="<u4").tobytes()
    rowcol = bits + np.full(3, 0.5, "<f2").tobytes() + bytes(2) + np.full(40, 0.25, "<f2").tobytes()
    plane = np.full((4, 2), 1, "<u4").tobytes() + np.full((4, 2), 0.125, "<f4").tobytes()
    row = bits + np.full(3, 0.5, "<f2").tobytes()
    payload = bytearray()
    for tensor in (dense, rowcol, plane + plane, row):
        payload += bytes(-len(payload) % 64) + tensor
    return header, payload


DENSE, ROWCOL, BLOCK, ROW = 0, 64, 192, 320


def file_of(header: dict[str, Any], payload: bytes) -> bytes:
    return build(dumps({"payload_sha256": payload_digest(payload), **header}), bytes(payload))


def refuse(path: Path, data: bytes, kind: type[FormatError], word: str) -> None:
    path.write_bytes(data)
    with pytest.raises(FormatError, match=word) as caught:
        read(path)
    assert type(caught.value) is kind
    assert caught.value.path == str(path)
    assert caught.value.field is not None
    assert caught.value.expected is not None
    assert caught.value.found is not None
    assert len(str(caught.value)) < 1000


def test_the_starting_point_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    path.write_bytes(file_of(*valid()))
    assert list(read(path).tensors) == ["a.0.bias", "a.0.w", "a.1.gate", "z"]
    assert [info.offset for info in read_header(path).tensors.values()] == [DENSE, ROWCOL, BLOCK, ROW]


Change = Callable[[dict[str, Any]], object]

HEADER_ATTACKS: dict[str, tuple[Change, type[FormatError], str]] = {
    "missing field": (lambda h: h.pop("metrics"), FormatError, "missing"),
    "unknown field": (lambda h: h.update(extra=1), FormatError, "unknown 'extra'"),
    "profile is a list": (lambda h: h.update(profile=[]), FormatError, "field profile"),
    "name is missing": (lambda h: h["profile"].pop("name"), FormatError, "profile.name"),
    "name is a number": (lambda h: h["profile"].update(name=1), FormatError, "profile.name"),
    "tool is a number": (lambda h: h["profile"].update(tool=1), FormatError, "profile.tool"),
    "method is a list": (lambda h: h["profile"].update(method=["a"]), FormatError, "profile.method"),
    "created has no zone": (lambda h: h["profile"].update(created="2026-01-02T03:04:05"), FormatError, "created"),
    "created in month 13": (lambda h: h["profile"].update(created="2026-13-02T03:04:05Z"), FormatError, "created"),
    "created ends in a newline": (
        lambda h: h["profile"].update(created="2026-01-02T03:04:05Z\n"),
        FormatError,
        "created",
    ),
    "nested profile": (lambda h: h["profile"].update(more={"a": {"b": 1}}), FormatError, "profile.more"),
    "long text": (lambda h: h["profile"].update(note="x" * 70_000), FormatError, "too long"),
    "verified is a number": (lambda h: h["base"].update(verified=1), FormatError, "base.verified"),
    "base is null": (lambda h: h.update(base=None), FormatError, "field base"),
    "text in metrics": (lambda h: h["metrics"].update(note="the text of a row"), FormatError, "metrics.note"),
    "deep text in metrics": (lambda h: h["metrics"].update(note={"a": "text"}), FormatError, "metrics.note"),
    "huge metric": (lambda h: h["metrics"].update(n=2**64), FormatError, "metrics.n"),
    "target_count 0": (lambda h: h.update(target_count=0), FormatError, "target_count"),
    "target_count true": (lambda h: h.update(target_count=True), FormatError, "target_count"),
    "target_count 1.0": (lambda h: h.update(target_count=1.0), FormatError, "target_count"),
    "model_count huge": (lambda h: h.update(model_count=2**63), FormatError, "model_count"),
    "model_count has 5000 digits": (lambda h: h.update(model_count=10**4000), FormatError, "model_count"),
    "digest in capitals": (lambda h: h.update(payload_sha256="AB" * 32), FormatError, "payload_sha256"),
    "digest is short": (lambda h: h.update(payload_sha256="ab"), FormatError, "payload_sha256"),
    "digest is null": (lambda h: h.update(payload_sha256=None), FormatError, "payload_sha256"),
    "wrong payload digest": (lambda h: h.update(payload_sha256="ab" * 32), FormatError, "altered"),
    "layouts is an object": (lambda h: h.update(layouts={}), FormatError, "layouts"),
    "layout without parts": (lambda h: h["layouts"].__setitem__(0, []), FormatError, "1 to 16"),
    "layout of 17 parts": (lambda h: h["layouts"].__setitem__(0, h["layouts"][0] * 17), FormatError, "1 to 16"),
    "part is a list": (lambda h: h["layouts"][0].__setitem__(0, []), FormatError, "bad part"),
    "unknown kind": (lambda h: h["layouts"][0][0].update(kind="wavelet"), UnsupportedFormat, "cannot read such a part"),
    "kind in capitals": (
        lambda h: h["layouts"][0][0].update(kind="Factor"),
        UnsupportedFormat,
        "cannot read such a part",
    ),
    "a factor with a dense part's fields": (
        lambda h: h["layouts"][0][0].update(kind="factor"),
        FormatError,
        "wrong fields",
    ),
    "rows without a number of rows": (lambda h: h["layouts"][0][0].update(kind="rows"), FormatError, "number of rows"),
    "kind is a number": (lambda h: h["layouts"][0][0].update(kind=1), FormatError, "bad part"),
    "unknown scale": (lambda h: h["layouts"][1][0].update(scale="cell"), FormatError, "scale"),
    "scale is a list": (lambda h: h["layouts"][1][0].update(scale=["row"]), FormatError, "scale"),
    "unknown dtype": (lambda h: h["layouts"][0][0].update(dtype="bf16"), FormatError, "dtype"),
    "dtype is a list": (lambda h: h["layouts"][0][0].update(dtype=[]), FormatError, "dtype"),
    "block of 48": (lambda h: h["layouts"][2][0].update(block=48), FormatError, "block size"),
    "block is true": (lambda h: h["layouts"][2][0].update(block=True), FormatError, "block size"),
    "block is a float": (lambda h: h["layouts"][2][0].update(block=32.0), FormatError, "block size"),
    "block on a row scale": (lambda h: h["layouts"][3][0].update(block=32), FormatError, "wrong fields"),
    "extra field in a part": (lambda h: h["layouts"][0][0].update(extra=1), FormatError, "wrong fields"),
    "scale on a dense part": (lambda h: h["layouts"][0][0].update(scale="row"), FormatError, "wrong fields"),
    "a layout twice": (lambda h: h["layouts"].__setitem__(3, h["layouts"][1]), FormatError, "listed twice"),
    "an unused layout": (
        lambda h: h["layouts"].insert(4, [{"kind": "dense", "dtype": "f16"}]),
        FormatError,
        "more layouts",
    ),
    "more layouts than used": (lambda h: h["tensors"].__setitem__(3, [0, 6, [1, 9], 1]), FormatError, "never used"),
    "layouts out of order": (
        lambda h: (h["tensors"][0].__setitem__(3, 1), h["layouts"].insert(0, h["layouts"].pop(1))),
        FormatError,
        "order of first use",
    ),
    "strings is null": (lambda h: h.update(strings=None), FormatError, "strings"),
    "a string is a number": (lambda h: h["strings"].__setitem__(0, 1), FormatError, r"strings\[0\]"),
    "a string twice": (lambda h: h["strings"].__setitem__(1, ""), FormatError, "not sorted"),
    "strings out of order": (lambda h: h["strings"].reverse(), FormatError, "not sorted"),
    "an unused string": (lambda h: h["strings"].append("zz"), FormatError, "never used"),
    "tensors is an object": (lambda h: h.update(tensors={}), FormatError, "tensors"),
    "a tensor is an object": (lambda h: h["tensors"].__setitem__(0, {}), FormatError, "bad tensor"),
    "five fields": (lambda h: h["tensors"][0].append(1), FormatError, "number of rows"),
    "six fields": (lambda h: h["tensors"][0].extend([1, 1]), FormatError, "bad tensor"),
    "three fields": (lambda h: h["tensors"][0].pop(), FormatError, "bad tensor"),
    "tensors out of order": (lambda h: h["tensors"].reverse(), FormatError, "order"),
    "a tensor twice": (lambda h: h["tensors"].insert(1, h["tensors"][0]), FormatError, "occurs twice"),
    "string index too high": (lambda h: h["tensors"][0].__setitem__(0, 7), FormatError, "out of range"),
    "string index negative": (lambda h: h["tensors"][0].__setitem__(0, -1), FormatError, "out of range"),
    "string index true": (lambda h: h["tensors"][0].__setitem__(0, True), FormatError, "out of range"),
    "layout index too high": (lambda h: h["tensors"][0].__setitem__(3, 4), FormatError, "out of range"),
    "layout index a float": (lambda h: h["tensors"][0].__setitem__(3, 0.0), FormatError, "out of range"),
    "split at another place": (
        lambda h: (h["strings"].__setitem__(1, "a."), h["strings"].__setitem__(3, "0.bias")) and h["strings"].sort(),
        FormatError,
        "split|sorted|order",
    ),
    "no name": (
        lambda h: (h.update(strings=[""]), h.update(tensors=[[0, 0, [5], 0]]), h.update(layouts=h["layouts"][:1])),
        FormatError,
        "name length",
    ),
    "long name": (lambda h: h["strings"].__setitem__(6, "z" * 2000), FormatError, "name length"),
    "shape is a number": (lambda h: h["tensors"][0].__setitem__(2, 5), FormatError, "bad shape"),
    "no dimensions": (lambda h: h["tensors"][0].__setitem__(2, []), FormatError, "bad shape"),
    "nine dimensions": (lambda h: h["tensors"][0].__setitem__(2, [1] * 9), FormatError, "bad shape"),
    "dimension 0": (lambda h: h["tensors"][0].__setitem__(2, [0]), FormatError, "bad dimension"),
    "dimension -1": (lambda h: h["tensors"][0].__setitem__(2, [-1]), FormatError, "bad dimension"),
    "dimension true": (lambda h: h["tensors"][0].__setitem__(2, [True]), FormatError, "bad dimension"),
    "dimension 5.0": (lambda h: h["tensors"][0].__setitem__(2, [5.0]), FormatError, "bad dimension"),
    "dimension 2^31": (lambda h: h["tensors"][0].__setitem__(2, [2**31]), FormatError, "bad dimension"),
    "dimensions overflow": (lambda h: h["tensors"][0].__setitem__(2, [2**31 - 1] * 8), FormatError, "cut short"),
    "product is 0 modulo 2^64": (lambda h: h["tensors"][0].__setitem__(2, [2**16] * 4), FormatError, "cut short"),
    "one element more": (lambda h: h["tensors"][3].__setitem__(2, [4, 40]), FormatError, "cut short"),
    "one element fewer": (lambda h: h["tensors"][3].__setitem__(2, [2, 40]), FormatError, "wrong length"),
    "sign of a vector": (lambda h: h["tensors"][3].__setitem__(2, [40]), FormatError, "needs a matrix"),
    "no tensors but a payload": (lambda h: h.update(tensors=[], strings=[], layouts=[]), FormatError, "wrong length"),
    "too many tensors": (lambda h: h.update(tensors=[[0, 0, [1], 0]] * 65_537), FormatError, "too many tensors"),
}


@pytest.mark.parametrize("attack", HEADER_ATTACKS)
def test_header(attack: str, tmp_path: Path) -> None:
    change, kind, word = HEADER_ATTACKS[attack]
    header, payload = valid()
    header = copy.deepcopy({"payload_sha256": payload_digest(payload), **header})
    change(header)
    refuse(tmp_path / "x.bitdelta", build(dumps(header), bytes(payload)), kind, word)


def reorder(text: bytes) -> bytes:
    return json.dumps(dict(sorted(json.loads(text).items(), reverse=True)), separators=(",", ":")).encode()


TEXT_ATTACKS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a space": (lambda t: t.replace(b",", b", ", 1), "not canonical"),
    "keys in another order": (reorder, "not canonical"),
    "an escape": (lambda t: t.replace(b'"name":"p"', b'"name":"\\u0070"'), "not canonical"),
    "a lone surrogate": (lambda t: t.replace(b'"name":"p"', b'"name":"\\ud800"'), "not canonical"),
    "exponent": (lambda t: t.replace(b":100", b":1e2"), "not canonical|count"),
    "infinite number": (lambda t: t.replace(b"3.5", b"1e999"), "not JSON"),
    "NaN": (lambda t: t.replace(b"3.5", b"NaN"), "not JSON"),
    "a key twice": (lambda t: b'{"base":{},' + t[1:], "occurs twice"),
    "an inner key twice": (lambda t: t.replace(b'"name":"p"', b'"name":"p","name":"q"'), "occurs twice"),
    "not an object": (lambda t: b"[]", "not an object"),
    "not JSON": (lambda t: t[:-1], "not JSON"),
    "empty": (lambda t: b"", "not JSON|header size|padding"),
    "two values": (lambda t: t + b"{}", "not JSON"),
    "a control character": (lambda t: t.replace(b'"name":"p"', b'"name":"\n"'), "not JSON"),
    "not UTF-8": (lambda t: t.replace(b'"name":"p"', b'"name":"\xff"'), "not UTF-8"),
    "byte order mark": (lambda t: b"\xef\xbb\xbf" + t, "not JSON"),
    "deep nesting": (lambda t: b"[" * 100_000 + b"]" * 100_000, "too deep|not JSON"),
    "number of 100,000 digits": (lambda t: t.replace(b":100", b":1" + b"0" * 100_000), "not JSON"),
    "a million containers": (lambda t: b"[" + b"[]," * 1_000_000 + b"[]]", "header is too large"),
    "a million objects": (lambda t: b"[" + b"{}," * 1_000_000 + b"{}]", "header is too large"),
    "two million numbers": (lambda t: b"[" + b"300," * 2_000_000 + b"300]", "header is too large"),
    "padded with tabs": (lambda t: t + b"\t" * (-len(t) % 64 + 64), "not canonical"),
}


@pytest.mark.parametrize("attack", TEXT_ATTACKS)
def test_header_text(attack: str, tmp_path: Path) -> None:
    change, word = TEXT_ATTACKS[attack]
    header, payload = valid()
    text = dumps({"payload_sha256": payload_digest(payload), **header})
    changed = change(text)
    assert changed != text
    data = build(changed, bytes(payload), pad=64 if attack == "empty" else 0)
    refuse(tmp_path / "x.bitdelta", data, FormatError, word)


def put(at: int, value: bytes) -> Callable[[bytearray], None]:
    return lambda payload: payload.__setitem__(slice(at, at + len(value)), value)


f16, f32 = (lambda x: np.array(x, "<f2").tobytes()), (lambda x: np.array(x, "<f4").tobytes())
PAYLOAD_ATTACKS: dict[str, tuple[Callable[[bytearray], Any], str]] = {
    "gap between tensors": (put(DENSE + 20, b"\1"), "gap"),
    "last byte of a gap": (put(ROWCOL - 1, b"\1"), "gap"),
    "gap between segments": (put(ROWCOL + 30, b"\1"), "gap between segments"),
    "dense NaN": (put(DENSE + 8, f32(np.nan)), "a.0.bias.dense"),
    "dense infinity": (put(DENSE, f32(-np.inf)), "a.0.bias.dense"),
    "pad bit": (put(ROWCOL + 4, (1 << 8).to_bytes(4, "little")), "pad bits"),
    "highest pad bit": (put(ROW + 20, (1 << 31).to_bytes(4, "little")), "z.bits"),
    "pad bit of a second plane": (put(BLOCK + 64 + 4, b"\2"), "a.1.gate.bits"),
    "row scale NaN": (put(ROWCOL + 24, f16(np.nan)), "bad scale"),
    "row scale negative": (put(ROWCOL + 26, f16(-0.5)), "bad scale"),
    "row scale infinite": (put(ROW + 24, f16(np.inf)), "bad scale"),
    "col scale negative": (put(ROWCOL + 32 + 78, f16(-1)), "bad scale"),
    "block scale NaN": (put(BLOCK + 32, f32(np.nan)), "bad scale"),
    "block scale negative": (put(BLOCK + 64 + 32 + 28, f32(-1e-30)), "bad scale"),
    "trailing byte": (lambda p: p.append(0), "wrong length"),
    "trailing kilobyte": (lambda p: p.extend(bytes(1024)), "wrong length"),
    "a byte missing": (lambda p: p.pop(), "cut short"),
    "no payload": (lambda p: p.clear(), "cut short"),
}


@pytest.mark.parametrize("attack", PAYLOAD_ATTACKS)
def test_payload(attack: str, tmp_path: Path) -> None:
    change, word = PAYLOAD_ATTACKS[attack]
    header, payload = valid()
    change(payload)
    refuse(tmp_path / "x.bitdelta", file_of(header, payload), FormatError, word)


def kinds() -> tuple[dict[str, Any], bytearray]:
    """A factor [5, 9] of three groups with u and v, a factor [5, 9] without any scale, and rows 2, 5, 6 of [9, 3]."""
    coded = [[8, 2], [4, 1]]
    header = {
        "profile": {"name": "p"},
        "base": {},
        "metrics": {},
        "target_count": 100,
        "model_count": 200,
        "layouts": [
            [{"kind": "factor", "u": True, "v": True, "dtype": "f32", "groups": [[16, 1], [2, 2], [1, 1]]}],
            [{"kind": "factor", "u": False, "v": False, "dtype": "f16", "groups": coded}],
            [{"kind": "rows", "dtype": "f16"}],
        ],
        "strings": ["", "a", "b", "c"],
        "tensors": [[0, 1, [5, 9], 0], [0, 2, [5, 9], 1], [0, 3, [9, 3], 2, 3]],
    }
    ones, words = (lambda n, kind: np.ones(n, kind).tobytes()), (lambda n: np.ones(n, "<u4").tobytes())
    first = [ones(5, "<f4"), ones(9, "<f4"), ones(1, "<f4"), ones(5, "<f2"), ones(9, "<f2")]
    first += [ones(2, "<f2"), words(2), ones(2, "<f2"), words(2), ones(1, "<f4"), words(1), words(1)]
    second = [ones(2, "<f2"), words(4), ones(2, "<f2"), words(6), ones(1, "<f2"), words(1), ones(1, "<f2"), words(2)]
    third = [np.array([2, 5, 6], "<u4").tobytes(), ones((3, 3), "<f2")]
    payload = bytearray()
    for segments in (first, second, third):
        payload += bytes(-len(payload) % 64)
        for segment in segments:
            payload += bytes(-len(payload) % 4) + segment
    return header, payload


FIRST, SECOND, ROWS = 0, 128, 256
U, V, L16, U16, V16 = FIRST, FIRST + 20, FIRST + 56, FIRST + 60, FIRST + 72
STEPS2, CODES2, RIGHT2, L1, SIGNS1 = FIRST + 92, FIRST + 96, FIRST + 104, FIRST + 116, FIRST + 120


def test_the_other_starting_point_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    path.write_bytes(file_of(*kinds()))
    assert list(read(path).tensors) == ["a", "b", "c"]
    infos = read_header(path).tensors.values()
    assert [info.offset for info in infos] == [FIRST, SECOND, ROWS]
    assert [info.rows for info in infos] == [None, None, 3]


def part(index: int) -> Callable[..., Change]:
    """A change to the part `index`."""
    return lambda **fields: lambda h: h["layouts"][index][0].update(**fields)


KIND_HEADER_ATTACKS: dict[str, tuple[Change, str]] = {
    "u is missing": (lambda h: h["layouts"][0][0].pop("u"), "wrong fields"),
    "groups are missing": (lambda h: h["layouts"][0][0].pop("groups"), "wrong fields"),
    "an extra field": (part(0)(scale="row"), "wrong fields"),
    "u is a number": (part(0)(u=1), "true or false"),
    "v is null": (part(0)(v=None), "true or false"),
    "a factor of dtype bf16": (part(0)(dtype="bf16"), "unknown dtype"),
    "f32 of nothing": (part(1)(dtype="f32"), "dtype has no array"),
    "no groups": (part(0)(groups=[]), "1 to 6 groups"),
    "seven groups": (part(0)(groups=[[1, 1]] * 7), "1 to 6 groups"),
    "groups are an object": (part(0)(groups={}), "1 to 6 groups"),
    "a group is a number": (part(0)(groups=[4]), "bad group"),
    "a group of three numbers": (part(0)(groups=[[4, 1, 1]]), "bad group"),
    "bits are true": (part(0)(groups=[[True, 1]]), "bad group"),
    "bits are 2.0": (part(0)(groups=[[2.0, 1]]), "bad group"),
    "a rank is null": (part(0)(groups=[[4, None]]), "bad group"),
    "3 bits": (part(0)(groups=[[3, 1]]), "groups are invalid"),
    "0 bits": (part(0)(groups=[[0, 1]]), "groups are invalid"),
    "64 bits": (part(0)(groups=[[64, 1]]), "groups are invalid"),
    "bits rise": (part(0)(groups=[[2, 1], [4, 1]]), "do not decrease"),
    "bits twice": (part(0)(groups=[[4, 1], [4, 1]]), "do not decrease"),
    "rank 0": (part(0)(groups=[[4, 0]]), "bad rank"),
    "rank -1": (part(0)(groups=[[16, 3], [4, -1]]), "bad rank"),
    "the rank exceeds the matrix's": (part(0)(groups=[[4, 6]]), "rank exceeds"),
    "ranks higher than the matrix together": (part(0)(groups=[[4, 3], [2, 3]]), "rank exceeds"),
    "a rank of 4000 digits": (part(0)(groups=[[4, 10**4000]]), "rank exceeds"),
    "a higher rank than the payload": (part(0)(groups=[[16, 2], [2, 2], [1, 1]]), "another length|cut short"),
    "factors of a vector": (lambda h: h["tensors"][0].__setitem__(2, [9]), "needs a matrix"),
    "rows of a vector": (lambda h: h["tensors"][2].__setitem__(2, [9]), "needs a matrix"),
    "rows of experts": (lambda h: h["tensors"][2].__setitem__(2, [9, 3, 3]), "needs a matrix"),
    "no number of rows": (lambda h: h["tensors"][2].pop(), "number of rows"),
    "a number of rows for a factor": (lambda h: h["tensors"][0].append(3), "number of rows"),
    "0 rows": (lambda h: h["tensors"][2].__setitem__(4, 0), "number of rows"),
    "-1 rows": (lambda h: h["tensors"][2].__setitem__(4, -1), "number of rows"),
    "true rows": (lambda h: h["tensors"][2].__setitem__(4, True), "number of rows"),
    "3.0 rows": (lambda h: h["tensors"][2].__setitem__(4, 3.0), "number of rows"),
    "more rows than there are": (lambda h: h["tensors"][2].__setitem__(4, 10), "number of rows"),
    "rows past the payload": (lambda h: h["tensors"][2].__setitem__(4, 4), "cut short"),
    "rows of dtype u32": (part(2)(dtype="u32"), "unknown dtype"),
    "a rows part with a field": (part(2)(count=3), "wrong fields"),
    "two parts of rows": (
        lambda h: h["layouts"][2].append({"kind": "rows", "dtype": "f32"}),
        "more than one rows part",
    ),
}


@pytest.mark.parametrize("attack", KIND_HEADER_ATTACKS)
def test_header_of_factors_and_rows(attack: str, tmp_path: Path) -> None:
    change, word = KIND_HEADER_ATTACKS[attack]
    header, payload = kinds()
    change(header)
    refuse(tmp_path / "x.bitdelta", file_of(header, payload), FormatError, word)


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


KIND_PAYLOAD_ATTACKS: dict[str, tuple[Callable[[bytearray], Any], str]] = {
    "u negative": (put(U, f32(-1)), "a.u"),
    "u NaN": (put(U + 16, f32(np.nan)), "a.u"),
    "v infinite": (put(V + 32, f32(np.inf)), "a.v"),
    "l negative": (put(L16, f32(-1)), r"a.groups\[0\].l"),
    "l of signs NaN": (put(L1, f32(np.nan)), r"a.groups\[2\].l"),
    "a value of U infinite": (put(U16 + 8, f16(np.inf)), r"a.groups\[0\].U"),
    "a value of V NaN": (put(V16, f16(np.nan)), r"a.groups\[0\].V"),
    "a step negative": (put(STEPS2, f16(-0.5)), r"a.groups\[1\].U.steps"),
    "a step infinite": (put(RIGHT2 + 2, f16(np.inf)), r"a.groups\[1\].V.steps"),
    "a pad bit of codes": (put(CODES2 + 4, word(1 << 10)), r"a.groups\[1\].U"),
    "the highest pad bit of codes": (put(RIGHT2 + 4, word(1 << 31)), r"a.groups\[1\].V"),
    "a pad bit of signs": (put(SIGNS1, word(1 << 5)), r"a.groups\[2\].U"),
    "a pad bit of 8-bit codes": (put(SECOND + 8, word(1 << 8)), r"b.groups\[0\].U"),
    "a gap between a factor's segments": (put(V16 - 1, b"\1"), "gap between segments"),
    "a row twice": (put(ROWS + 4, word(2)), "do not increase"),
    "rows fall": (put(ROWS, word(8)), "do not increase"),
    "the last row falls": (put(ROWS + 8, word(4)), "do not increase"),
    "a row number is past the last row": (put(ROWS + 8, word(9)), "past the last row"),
    "the highest row": (put(ROWS + 8, word(2**32 - 1)), "past the last row"),
    "a row's value NaN": (put(ROWS + 12, f16(np.nan)), "c.values"),
    "a row's value infinite": (put(ROWS + 28, f16(-np.inf)), "c.values"),
    "a trailing byte": (lambda p: p.append(0), "wrong length"),
    "a byte missing": (lambda p: p.pop(), "cut short"),
}


@pytest.mark.parametrize("attack", KIND_PAYLOAD_ATTACKS)
def test_payload_of_factors_and_rows(attack: str, tmp_path: Path) -> None:
    change, expected = KIND_PAYLOAD_ATTACKS[attack]
    header, payload = kinds()
    change(payload)
    refuse(tmp_path / "x.bitdelta", file_of(header, payload), FormatError, expected)


def test_row_numbers_across_chunks(tmp_path: Path) -> None:
    """The check goes in chunks of 2^20: a fall at their edge is found as well."""
    count, path = (1 << 20) + 5, tmp_path / "x.bitdelta"
    header, _ = kinds()
    header |= {"layouts": header["layouts"][2:], "strings": ["", "c"], "tensors": [[0, 1, [count + 1, 1], 0, count]]}
    rows = np.arange(count, dtype="<u4")
    values = np.ones(count, "<f2").tobytes()
    path.write_bytes(file_of(header, rows.tobytes() + values))
    assert list(read(path).tensors) == ["c"]
    for at in (1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, count - 1):
        changed = rows.copy()
        changed[at] = changed[at - 1]
        refuse(path, file_of(header, changed.tobytes() + values), FormatError, f"expected > {at - 1}; found {at - 1}")


PREFIX_ATTACKS: dict[str, tuple[int, bytes, type[FormatError], str]] = {
    "another magic": (0, b"bitdelta", UnsupportedFormat, "not a .bitdelta file"),
    "zip": (0, b"PK\3\4", UnsupportedFormat, "not a .bitdelta file"),
    "version 0": (8, b"\0", UnsupportedFormat, "version"),
    "version 3": (8, b"\3", UnsupportedFormat, "version"),
    "a flag": (12, b"\1", UnsupportedFormat, "flags"),
    "the highest flag": (15, b"\x80", UnsupportedFormat, "flags"),
    "header of 0 bytes": (16, bytes(8), FormatError, "header size"),
    "header of 63 bytes": (16, (63).to_bytes(8, "little"), FormatError, "header size"),
    "header over 8 MiB": (16, ((8 << 20) + 64).to_bytes(8, "little"), FormatError, "header size"),
    "header of 2^64 - 64 bytes": (16, b"\xc0" + b"\xff" * 7, FormatError, "header size"),
    "header longer than the file": (16, (1 << 20).to_bytes(8, "little"), FormatError, "cut short"),
    "wrong header digest": (24, b"\0\0\0\0", FormatError, "altered"),
    "reserved byte": (56, b"\1", FormatError, "reserved"),
    "last reserved byte": (63, b"\1", FormatError, "reserved"),
    "altered header": (70, b"X", FormatError, "altered"),
}


@pytest.mark.parametrize("attack", PREFIX_ATTACKS)
def test_prefix(attack: str, tmp_path: Path) -> None:
    at, value, kind, word = PREFIX_ATTACKS[attack]
    data = bytearray(file_of(*valid()))
    data[at : at + len(value)] = value
    refuse(tmp_path / "x.bitdelta", bytes(data), kind, word)


def test_more_padding_than_needed(tmp_path: Path) -> None:
    header, payload = valid()
    text = dumps({"payload_sha256": payload_digest(payload), **header})
    refuse(tmp_path / "x.bitdelta", build(text, bytes(payload), pad=64), FormatError, "too much padding")


def test_altered_payload(tmp_path: Path) -> None:
    data = bytearray(file_of(*valid()))
    data[-1] ^= 1
    refuse(tmp_path / "x.bitdelta", bytes(data), FormatError, "payload was altered")


def test_read_header_checks_the_length(tmp_path: Path) -> None:
    data = file_of(*valid())
    for changed in (data[:-1], data + b"\0"):
        path = tmp_path / "x.bitdelta"
        path.write_bytes(changed)
        with pytest.raises(FormatError):
            read_header(path)


@pytest.mark.parametrize("made", [valid, kinds])
def test_truncation_at_every_length(made: Callable[[], tuple[dict[str, Any], bytearray]], tmp_path: Path) -> None:
    data, path = file_of(*made()), tmp_path / "x.bitdelta"
    path.write_bytes(data)
    with open(path, "r+b") as file:
        for length in reversed(range(len(data))):
            file.truncate(length)
            with pytest.raises(FormatError):
                read(path)
            with pytest.raises(FormatError):
                read_header(path)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe", tmp_path / "loop", Path("/dev/null"), "a\0b"):
        for reader in (read, read_header):
            with pytest.raises(InputError) as caught:
                reader(path)
            assert not isinstance(caught.value, FormatError)
