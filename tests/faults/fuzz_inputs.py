"""Files for fuzzing: sound ones, and Hypothesis strategies that damage them with some knowledge.

Random bytes are no file to any reader, so the strategies change a sound file: its bytes, or the
fields of its header, with lengths and checksums put right where a reader would stop at them.
"""

import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from faults.sound_files import npy, npz, pictures, sound

EXTREMES = (
    *(0, 1, -1, 2, 255, 256, 65535, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53, 2**62),
    *(2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63), 10**12, 10**30),
)


class Pairs(list):
    """A JSON object as a list of [name, value]: a name may come twice."""


class Raw(str):
    """JSON as it is to be written."""

    __slots__ = ()


ODD: tuple[Any, ...] = (
    *EXTREMES,
    *(None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "1e9", "\ud800", "\0", "../../x", "{}", "None", "é" * 300, "x" * 100_000),
    *([], [[]], [0], [1, 2, 3, 4], [None], [2**63, 0], [-1, 5], ["x"], Pairs(), Pairs([["x", 1]])),
    *(Raw("1e400"), Raw("9" * 5000), Raw("[" * 900 + "]" * 900), Raw("[" * 100_000), Raw("{")),
    *(Raw("[" * 5000 + "]" * 5000), Raw('{"a":' * 3000 + "1" + "}" * 3000), Raw("")),
)


def _dump(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{_dump(v)}" for k, v in value) + "}"
    return "[" + ",".join(map(_dump, value)) + "]" if isinstance(value, list) else json.dumps(value)


def _slots(value: Any) -> list[tuple[list, int]]:
    """Every (container, place) in a document, the containers being lists."""
    if not isinstance(value, list):
        return []
    places = [(item, 1) for item in value] if isinstance(value, Pairs) else []
    places += [(value, i) for i in range(len(value))]
    inner = [v for _, v in value] if isinstance(value, Pairs) else value
    return places + [slot for item in inner for slot in _slots(item)]


# Of few characters: Hypothesis takes half a minute to know all there are.
TEXT = st.text("a0./ {}\"'\\\0\n\ud800é漢\u202e\ufeff", max_size=8)


@st.composite
def edited_json(draw: Any, documents: tuple[str, ...], values: tuple[Any, ...] = ODD) -> str:
    """A document with up to four values replaced, left out, doubled or renamed."""
    odd = st.sampled_from(values).map(copy.deepcopy)  # a later edit may be inside of it
    document = json.loads(draw(st.sampled_from(documents)), object_pairs_hook=_pairs)
    for _ in range(draw(st.integers(1, 4))):
        slots = _slots(document)
        if not slots:
            return _dump(draw(odd))
        container, place = slots[draw(st.integers(0, len(slots) - 1))]
        how = draw(st.sampled_from(("value", "value", "value", "drop", "double", "rename")))
        of_object = isinstance(container, Pairs)
        if how == "drop" and (of_object or not isinstance(container[0], str) or place == 0):
            del container[place]
        elif how == "double" and of_object:
            container.append([container[place][0], draw(odd)])
        elif how == "rename" and of_object:
            container[place][0] = draw(st.sampled_from(("", "x", "__metadata__")) | TEXT)
        elif not of_object:
            container[place] = draw(odd)
    return _dump(document)


def _pairs(found: list[tuple[str, Any]]) -> Pairs:
    return Pairs([name, value] for name, value in found)


@st.composite
def edited_bytes(draw: Any, contents: tuple[bytes, ...], least: int = 1) -> bytes:
    """Sound files with bytes changed, cut out, put in, taken from another, or made numbers of."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(least, 5))):
        # Headers and directories stand at the ends.
        span = draw(st.sampled_from((64, 1024, len(content) or 1)))
        offset = draw(st.integers(0, min(span, len(content) or 1) - 1))
        at = max(0, len(content) - 1 - offset) if draw(st.booleans()) else offset
        how = draw(st.sampled_from(("flip", "set", "cut", "end", "insert", "splice", "number")))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            new = draw(st.binary(min_size=1, max_size=4))
            content[at : at + len(new)] = new
        elif how == "cut":
            del content[at : at + draw(st.integers(1, 64))]
        elif how == "end":
            del content[at:]
        elif how == "insert":
            content[at:at] = draw(st.binary(max_size=16)) * draw(st.sampled_from((1, 1, 1, 500)))
        elif how == "splice":
            other = draw(st.sampled_from(contents))
            start = draw(st.integers(0, len(other)))
            content[at:at] = other[start : start + draw(st.integers(0, 200))]
        else:
            size = draw(st.sampled_from((1, 2, 4, 8)))
            number = draw(st.sampled_from(EXTREMES)) % 256**size
            content[at : at + size] = number.to_bytes(
                size, draw(st.sampled_from(("big", "little")))
            )
    return bytes(content)


def _safetensors() -> st.SearchStrategy[bytes]:
    """Headers made up, or edited; the length before them is right, nearly always."""
    dtypes = ("F32", "F16", "BF16", "F64", "I8", "U64", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64")
    entry = st.tuples(
        st.sampled_from((*dtypes, "f32", "", 1, None)),
        st.lists(st.integers(0, 4) | st.sampled_from(EXTREMES), max_size=4),
        st.lists(st.integers(0, 64) | st.sampled_from(EXTREMES), min_size=1, max_size=3),
    ).map(lambda e: Pairs([["dtype", e[0]], ["shape", e[1]], ["data_offsets", e[2]]]))
    signs = ("conv_proj.weight", "patch_embed.proj.weight", "embedding/kernel", "pos_embed")
    names = st.sampled_from((*signs, "a", "", "__metadata__")) | TEXT
    made = st.lists(st.tuples(names, entry), max_size=4).map(lambda e: _dump(_pairs(e)))
    wholes = [_split(content) for content in sound("safetensors")]
    edited = edited_json(tuple(header for header, _ in wholes))
    bodies = st.sampled_from([body for _, body in wholes]) | st.integers(0, 200).map(bytes)
    lengths = st.just(None) | st.just(None) | st.just(None) | st.sampled_from(EXTREMES)

    def join(text: str, body: bytes, length: int | None) -> bytes:
        header = text.encode("utf-8", "surrogatepass")
        number = len(header) if length is None else length % 2**64
        return number.to_bytes(8, "little") + header + body

    whole = st.builds(join, made | edited | edited, bodies, lengths)
    return whole | edited_bytes(sound("safetensors"))


def _split(content: bytes) -> tuple[str, bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end].decode(), content[end:]


# What a header of NumPy can be made to hold: it is a Python literal.
LITERALS = (
    *("'<f4'", "'|O'", "'V0'", "'V2'", "'S0'", "'<U1000000000'", "'<M8[ns]'", "'a5'", "'f'", "'?'"),
    *("[('a', '<f4'), ('b', '|O')]", "[('a', '<f4', (2**9,))]", "[]", "''", "None", "{}", "set()"),
    *("(1,)*10**9", "()", "(0,)", "(1000000000000, 0)", "(-1,)", "(True,)", "(1.5,)", "(3L,)"),
    *("(" * 90 + ")" * 90, "-" * 3000 + "1", "[" * 5000, "(" + "1, " * 60 + ")", "9" * 5000),
    *("'" * 3, "\\", "\n  x", "\0", "\ud800", "__import__('os').getpid()", "f'{1}'", "x" * 11000),
    *map(str, EXTREMES),
)


@st.composite
def _npy_files(draw: Any) -> bytes:
    values = st.sampled_from(LITERALS)
    shape = draw(st.sampled_from(((), (2, 3), (4,), (2, 2, 3, 8))))
    parts = {"'descr'": "'<f4'", "'fortran_order'": "False", "'shape'": repr(shape)}
    for _ in range(draw(st.integers(0, 2))):
        how = draw(st.sampled_from(("value", "value", "key", "drop")))
        key = draw(st.sampled_from(sorted(parts) or ["x"]))
        if how == "value":
            parts[key] = draw(values)
        elif how == "key":
            parts[draw(values)] = "1"
        else:
            parts.pop(key, None)
    header = "{" + ", ".join(f"{key}: {value}" for key, value in parts.items()) + "}"
    header = draw(st.just(header) | values) if draw(st.integers(0, 9)) == 0 else header
    version = draw(st.sampled_from((1, 1, 1, 2, 3, 4)))
    data = bytes(draw(st.sampled_from((0, 16, 24, 384))))
    content = npy("<f4", shape, data, header, version)
    return draw(st.just(content) | edited_bytes((content,)))


def _npz_archives() -> st.SearchStrategy[bytes]:
    """Arrays damaged inside of a sound archive, whose checksums are right; and archives damaged."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(sound("npz")[0])) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    names = st.sampled_from(sorted(arrays)) | st.sampled_from(
        ("a.npy", "a", ".npy", "x/", "data.pkl")
    )
    methods = st.sampled_from((0, 0, 0, 8, 12, 14))
    replaced = st.dictionaries(names, _npy_files(), min_size=1, max_size=3)
    inner = st.builds(lambda new, how: npz(arrays | new, how), replaced, methods)
    alone = st.builds(npz, replaced, methods)
    packed = tuple(
        npz({"embedding/kernel.npy": npy("<f4", (3,), bytes(12))}, m) for m in (8, 12, 14)
    )
    return inner | alone | edited_bytes((*sound("npz"), *packed))


def _as_bytes(text: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    codings = st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    return st.builds(lambda t, coding: t.encode(coding, "replace"), text, codings)


def _json(target: str) -> st.SearchStrategy[bytes]:
    documents = tuple(content.decode() for content in sound(target))
    return _as_bytes(edited_json(documents)) | edited_bytes(sound(target))


def _tables() -> st.SearchStrategy[bytes]:
    pieces = (
        *("path", "label", "split", "Path", "a.png", "b.png", "/dev/zero", "../a.png", "", " "),
        *('"', '""', '"a.png"', "'", ",", ";", "\t", "\r", "\n", "\0", "\ufeff", "\ud800", "\x85"),
        *("0", "1", "-1", "007", "9" * 18, "9" * 25, "1e3", "NaN", "é", "x" * 140_000, "train"),
    )
    fields = st.sampled_from(pieces) | TEXT
    rows = st.lists(st.lists(fields, max_size=4), max_size=6)
    starts = st.sampled_from(("path,label\n", "path\tlabel\tsplit\n", "label;path\r", "", "\n\n"))
    ends = st.sampled_from(("\n", "\r\n", "\r"))

    def join(start: str, found: list[list[str]], delimiter: str, end: str) -> str:
        return start + end.join(delimiter.join(row) for row in found)

    made = st.builds(join, starts, rows, st.sampled_from(",;\t"), ends)
    lines = sound("table")[2].decode().splitlines()
    objects = st.lists(edited_json(tuple(lines)) | st.sampled_from(lines), max_size=4)
    return _as_bytes(made | objects.map("\n".join)) | edited_bytes(sound("table"))


@st.composite
def _png(draw: Any) -> bytes:
    """A PNG whose chunks are damaged under checksums that are right."""
    content = draw(st.sampled_from([v for k, v in pictures().items() if k.startswith("PNG")]))
    chunks, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + size]])
        at += 12 + size
    kinds = (
        b"tRNS",
        b"PLTE",
        b"iCCP",
        b"zTXt",
        b"iTXt",
        b"eXIf",
        b"acTL",
        b"fcTL",
        b"fdAT",
        b"pHYs",
    )
    for _ in range(draw(st.integers(1, 3))):
        chunk = chunks[draw(st.integers(0, len(chunks) - 1))]
        how = draw(st.sampled_from(("edit", "edit", "kind", "add", "data")))
        if how == "edit":
            chunk[1] = draw(edited_bytes((chunk[1],)))
        elif how == "kind":
            chunk[0] = draw(st.sampled_from(kinds) | st.binary(min_size=4, max_size=4))
        elif how == "add":
            new = [draw(st.sampled_from(kinds)), draw(st.binary(max_size=40))]
            chunks.insert(draw(st.integers(0, len(chunks))), new)
        else:
            chunk[1] = zlib.compress(bytes(draw(st.sampled_from((0, 100, 10**7)))))
    made = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return content[:8] + b"".join(made)


FILES: dict[str, Callable[[], st.SearchStrategy[bytes]]] = {
    "safetensors": _safetensors,
    "npz": _npz_archives,
    "description": lambda: _json("description"),
    "config": lambda: _json("config"),
    "table": _tables,
    "image": lambda: _png() | edited_bytes(sound("image")) | edited_bytes(sound("image")),
}
