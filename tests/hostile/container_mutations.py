"""Seeded damage to what archives, pickles and compressed files hold, in files that stay whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch

from tests.hostile.mutations import (
    BYTES,
    EXTREMES,
    Mutation,
    change_json,
    change_word,
    flip_bits,
)

BOMB = 48 << 20
"""Bytes that a compressed bomb unpacks to: above the limit that the tests set."""

# ---- pickles -------------------------------------------------------------------------------------

GLOBALS = (
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "open"),
    ("subprocess", "Popen"),
    ("builtins", "bytearray"),
    ("builtins", "list"),
    ("builtins", "dict"),
    ("builtins", "range"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "load"),
    ("torch", "FloatStorage"),
    ("torch", "device"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("copyreg", "_reconstructor"),
)


OPCODES = (
    *(bytes([code]) for code in b"Rbo\x81\x92012(taeus.N\x90\x93\x94\x97\x98Q"),
    *(b"h\xff", b"q\xff", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\xff", b"\x82\x01", b"P0\n"),
)


def change_pickle(content: bytes, random: Random) -> bytes:
    """Change one opcode or argument of a pickle, or put a call before its end."""
    try:
        operations = list(pickletools.genops(content))
    except Exception:
        return flip_bits(content, random)
    ends = [place for _, _, place in operations[1:]] + [len(content)]
    parts = [content[place:end] for (_, _, place), end in zip(operations, ends, strict=True)]
    at = random.randrange(len(parts))
    kind = random.randrange(8)
    module, name = random.choice(GLOBALS)
    function = f"c{module}\n{name}\n".encode()
    if kind == 0:
        parts.insert(-1, function + _arguments(random) + b"R")
    elif kind == 1:
        parts.insert(at, function + _arguments(random) + b"R0")
    elif kind == 2:
        parts[at] = function
    elif kind == 3:
        named = [
            k for k, (op, *_) in enumerate(operations) if op.name in ("GLOBAL", "STACK_GLOBAL")
        ]
        if named:
            parts[random.choice(named)] = function
    elif kind == 4:
        parts[at] = random.choice(OPCODES)
    elif kind == 5:
        integers = [k for k, (_, value, _) in enumerate(operations) if isinstance(value, int)]
        if integers:
            value = random.choice((*EXTREMES, 1 << 40, 10**30, -5))
            parts[random.choice(integers)] = pickle.dumps(value, protocol=2)[2:-1]
    elif kind == 6:
        other = random.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    else:
        times = random.choice((0, 2, 3000))
        # it may be long by an earlier mutation
        parts[at] = parts[at] * (times if len(parts[at]) < 1 << 16 else min(times, 2))
    return b"".join(parts)


def _arguments(random: Random) -> bytes:
    return random.choice(
        (
            b"(X\x0d\x00\x00\x00touch touchedt",
            b"(J\xff\xff\xff\x7ft",
            b"(I99999999999\nt",
            b"(]t",
            b")",
            b"((I9\nI99999999999\nttX\x02\x00\x00\x00f8t",
            b"(X\x01\x00\x00\x00eX\x06\x00\x00\x00latin1t",
        )
    )


PICKLE: tuple[Mutation, ...] = (*[change_pickle] * 12, *BYTES)

# ---- states --------------------------------------------------------------------------------------


def change_state(content: bytes, random: Random) -> bytes:
    """Change what a checkpoint holds, in a file that is whole: a key, a value, a tensor, a path."""
    try:
        state = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return flip_bits(content, random)
    places = [*_places(state)]
    if not places:
        return content
    holder, key = random.choice(places)
    kind = random.randrange(4)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice((f"{key}.x", "", 7, None, "x" * 1000))] = holder.pop(key)
    elif isinstance(holder[key], torch.Tensor) and kind == 2:
        holder[key] = _other_tensor(holder[key], random)
    else:
        other_holder, other_key = random.choice(places)
        holder[key] = random.choice((*_values(), other_holder[other_key]))
    target = io.BytesIO()
    try:
        torch.save(state, target)
    except Exception:  # a value that holds itself
        return content
    return target.getvalue()


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a nested value, which may hold itself, with every key of it."""
    keys = [*value] if isinstance(value, dict) else [*range(len(value))]
    for key in keys:
        if not isinstance(value, tuple):
            yield value, key
        if key == "optimizer_states":
            continue  # what an optimizer makes of values in it is torch's own
        if isinstance(value[key], (dict, list, tuple)) and depth < 20:
            yield from _places(value[key], depth + 1)


def _values() -> tuple[Any, ...]:
    """Return what no key of a checkpoint should hold."""
    return (
        None,
        True,
        -1,
        0,
        1 << 62,
        10**400,
        float("nan"),
        float("inf"),
        "",
        "x",
        "../secret/file",
        "/etc/passwd",
        "../../secret",
        "a\nb",
        [],
        {},
        [[]],
        {"x": {}},
        {"secret/file": torch.tensor(0.5), "../secret/file": torch.tensor(0.5)},
        (),
        torch.zeros(0),
        torch.tensor(float("nan")),
        torch.zeros(1).expand(1 << 40),
        torch.zeros(3, dtype=torch.uint8),
        b"bytes",
    )


def _other_tensor(value: Any, random: Random) -> Any:
    changes = (
        lambda: value.double(),
        lambda: value.long(),
        lambda: value.bool(),
        lambda: value.flatten()[:-1],
        lambda: value[None],
        lambda: value.flatten().repeat(3),
        lambda: value.flatten()[:1].expand(1 << 36),
        lambda: value * float("nan"),
        lambda: value.to(torch.complex64),
        lambda: value.to_sparse(),
        lambda: torch.empty(value.shape, device="meta"),
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.quint8),
        lambda: torch.nn.Parameter(value.float()),
    )
    change = random.choice(changes)
    if value.numel() > 1 << 20:  # expanded by a mutation before
        return None
    try:
        return change()
    except (RuntimeError, IndexError):
        return None


# ---- containers ----------------------------------------------------------------------------------


def change_zip(inner: Sequence[Mutation]) -> Mutation:
    """Return a mutation of an archive's entries; ``inner`` changes the content of one."""

    def change(content: bytes, random: Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
            at = random.randrange(len(entries))
        except Exception:
            return flip_bits(content, random)
        kind = random.randrange(10)
        method = zipfile.ZIP_STORED
        name, value = entries[at]
        if kind == 0:
            del entries[at]
        elif kind == 1:
            entries.append(entries[at])
        elif kind == 2:
            folder = name.partition("/")[0]
            other = random.choice(("../../touched", "/touched", "", "x" * 300, f"{folder}/../x"))
            entries[at] = (other, value)
        elif kind == 3:
            other = random.randrange(len(entries))
            entries[at], entries[other] = (name, entries[other][1]), (entries[other][0], value)
        elif kind == 4:
            method = zipfile.ZIP_DEFLATED
            if random.random() < 0.05:
                entries[at] = (name, bytes(BOMB))
        elif kind == 5:
            entries[at] = (name, value * random.choice((0, 2, 10)))
        else:
            entries[at] = (name, random.choice(inner)(value, random))
        target = io.BytesIO()
        with (
            warnings.catch_warnings(action="ignore"),
            zipfile.ZipFile(target, "w", method) as archive,
        ):
            for entry, value in entries:
                archive.writestr(zipfile.ZipInfo(entry), value, method)
        return target.getvalue()

    return change


def change_tar(inner: Sequence[Mutation]) -> Mutation:
    """Return a mutation of a tar file's members, or of one header whose sum is then right."""

    def change(content: bytes, random: Random) -> bytes:
        if random.random() < 0.5:
            return _other_header(content, random)
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                files = [one for one in archive.getmembers() if one.isfile()]
                entries = [(one.name, archive.extractfile(one).read()) for one in files]  # type: ignore[union-attr]
        except Exception:
            return flip_bits(content, random)
        if not entries:
            return content
        at = random.randrange(len(entries))
        name, value = entries[at]
        other = random.choice(("../../touched", "/touched", "x" * 300, "a/.hidden", "a\nb.png"))
        kind = random.randrange(5)
        if kind == 0:
            del entries[at]
        elif kind == 1:
            entries.append(entries[at])
        elif kind == 2:
            entries[at] = (other, value)
        else:
            entries[at] = (name, random.choice(inner)(value, random))
        target = io.BytesIO()
        form = random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        with tarfile.open(fileobj=target, mode="w", format=form) as archive:
            for entry, value in entries:
                info = tarfile.TarInfo(entry)
                info.size = len(value)
                archive.addfile(info, io.BytesIO(value))
        return target.getvalue()

    return change


def _other_header(content: bytes, random: Random) -> bytes:
    places = [at for at in range(0, len(content) - 511, 512) if content[at + 257 :][:5] == b"ustar"]
    if not places:
        return flip_bits(content, random)
    at = random.choice(places)
    head = bytearray(content[at : at + 512])
    kind = random.randrange(4)
    if kind == 0:
        head[156:157] = random.choice((b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"x", b"g", b"S"))
    elif kind == 1:
        sizes = (
            b"77777777777\0",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"-0000000001\0",
            b"\0" * 12,
        )
        head[124:136] = random.choice(sizes)
    else:
        head[random.randrange(512)] = random.randrange(256)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return content[:at] + bytes(head) + content[at + 512 :]


_PACK = {"gz": lambda data: gzip.compress(data, 1), "bz2": bz2.compress, "xz": lzma.compress}
_UNPACK = {"gz": gzip.decompress, "bz2": bz2.decompress, "xz": lzma.decompress}


def change_packed(kind: str, inner: Sequence[Mutation]) -> Mutation:
    """Return a mutation of what a compressed file holds, rarely to a bomb."""
    bombs: list[bytes] = []

    def change(content: bytes, random: Random) -> bytes:
        if random.random() < 0.005:
            if not bombs:
                bombs.append(_PACK[kind](bytes(BOMB)))
            return content + bombs[0] if random.random() < 0.7 else bombs[0]
        try:
            # a bomb of before takes longer to change and to pack than to read
            unpacked = _UNPACK[kind](content)[: 1 << 20]
        except Exception:  # damaged by a mutation before
            return flip_bits(content, random)
        return _PACK[kind](random.choice(inner)(unpacked, random)[: 1 << 21])

    return change


def change_header(start: int) -> Mutation:
    """Return a mutation of JSON after its length in 8 bytes, as safetensors begin."""

    def change(content: bytes, random: Random) -> bytes:
        if len(content) < start + 8:
            return content
        size = struct.unpack_from("<Q", content, start)[0]
        head = content[start + 8 : start + 8 + size]
        head = random.choice((change_json, change_word))(head, random)
        return content[:start] + struct.pack("<Q", len(head)) + head + content[start + 8 + size :]

    return change
