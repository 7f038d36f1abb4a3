"""A small writer of RecordIO files from their description, apart from the project's own."""

from __future__ import annotations

import struct

MAGIC = bytes.fromhex("0a23d7ce")


def record(labels, number=0, content=b""):
    """Return a record; several labels are written as a list, one label in the header."""
    if isinstance(labels, (int, float)):
        payload = struct.pack("<IfQQ", 0, labels, number, 0)
    else:
        payload = struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0, number, 0, *labels)
    payload += content
    words = [payload[k : k + 4] for k in range(0, len(payload), 4)]
    pieces = [b""]
    for word in words:
        if word == MAGIC:
            pieces.append(b"")
        else:
            pieces[-1] += word
    result = b""
    for k, piece in enumerate(pieces):
        kind = 1 if k == 0 else 3 if k == len(pieces) - 1 else 2
        kind = 0 if len(pieces) == 1 else kind
        result += MAGIC + struct.pack("<I", kind * 2**29 + len(piece)) + piece
        result += b"\0" * ((4 - len(piece)) % 4)
    return result


def joined(records):
    """Return a file of {key: bytes of a record}, and the index of where each begins."""
    content, lines = b"", ""
    for key, value in records.items():
        lines += f"{key}\t{len(content)}\n"
        content += value
    return content, lines


def write(path, records, index=True):
    """Write {key: bytes of a record}, and where each begins."""
    content, lines = joined(records)
    path.write_bytes(content)
    if index:
        path.with_suffix(".idx").write_text(lines)
    return path


def insightface(people, content):
    """Return the records of a training file of identities.

    Args:
        people: Number of images of each identity.
        content: Function from an identity and the number of its image to an encoded image.
    """
    records, key, ranges = {}, 1, []
    for person, images in enumerate(people):
        ranges.append((key, key + images))
        for number in range(images):
            records[key] = record(float(person), key, content(person, number))
            key += 1
    records[0] = record((key, key + len(people)), 0)
    for begin, end in ranges:
        records[key] = record((begin, end), key)
        key += 1
    return records
