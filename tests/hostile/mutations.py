"""Seeded damage to the content of files: of their bytes, and of what their bytes mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[bytes, Random], bytes]

EXTREMES = (0, 1, -1, 127, 128, 255, 256, 32767, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 63)

# ---- bytes ---------------------------------------------------------------------------------------


def flip_bits(content: bytes, random: Random) -> bytes:
    """Flip one to eight bits, often in the head."""
    found = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8)) if found else 0):
        found[_position(found, random)] ^= 1 << random.randrange(8)
    return bytes(found)


def truncate(content: bytes, random: Random) -> bytes:
    """Leave out the end."""
    return content[: random.randrange(len(content) + 1)]


def extend(content: bytes, random: Random) -> bytes:
    """Append noise, zeros or a copy."""
    size = random.choice((1, 2, 64, 4096))
    return content + random.choice((random.randbytes(size), bytes(size), content))


def splice(content: bytes, random: Random) -> bytes:
    """Write one slice over another place."""
    start, stop = _slice(content, random)
    place = random.randrange(len(content) + 1)
    return content[:place] + content[start:stop] + content[place + stop - start :]


def repeat(content: bytes, random: Random) -> bytes:
    """Repeat a slice many times."""
    start, stop = _slice(content, random)
    part = content[start:stop]
    return content[:stop] + part * random.choice((1, 2, 50, 1000)) + content[stop:]


def remove(content: bytes, random: Random) -> bytes:
    """Cut a slice out."""
    start, stop = _slice(content, random)
    return content[:start] + content[stop:]


def swap(content: bytes, random: Random) -> bytes:
    """Let two neighboring slices change places."""
    a, b, c = sorted(random.randrange(len(content) + 1) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def set_integer(content: bytes, random: Random) -> bytes:
    """Set what may be an integer of 1, 2, 4 or 8 bytes, often of the head, to an extreme."""
    size = random.choice((1, 2, 4, 4, 8))
    if len(content) < size:
        return content
    place = min(_position(content, random), len(content) - size)
    if random.random() < 0.5:
        place -= place % size
    value = random.choice(EXTREMES) & ((1 << (8 * size)) - 1)
    order = random.choice(("little", "big"))
    return content[:place] + value.to_bytes(size, order) + content[place + size :]


def noise(content: bytes, random: Random) -> bytes:
    """Forget the content."""
    return random.choice((b"", bytes(random.randrange(4096)), random.randbytes(4096)))


def _position(content: bytes | bytearray, random: Random) -> int:
    end = len(content) if random.random() < 0.5 else min(len(content), 96)
    return random.randrange(end)


def _slice(content: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 4, 16, 100, 1000)))


BYTES: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits,
    truncate,
    extend,
    splice,
    repeat,
    remove,
    swap,
    set_integer,
    set_integer,
    noise,
)

# ---- text ----------------------------------------------------------------------------------------

WORDS = (
    "",
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "0x7fffffff",
    "1_000",
    "1e400000000",
    "٣",
    "é",
    "\u202e",
    "\ud7ff",
    "\x00",
    "\x1b[2J",
    "\u2028",
    "a" * 5000,
    "../../../secret",
    "/etc/passwd",
    "~root",
    "$(touch touched)",
    "{0.__class__}",
    "%s%n",
    "=cmd|' /C calc'!A0",
    '"',
    "'",
    ",",
    "\n",
    "\r",
    "\t",
    "true",
    "null",
)
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]|\s", re.UNICODE)


def change_word(content: bytes, random: Random) -> bytes:
    """Put one of ``WORDS`` in the place of a token, or before it."""
    text = content.decode("utf-8", "replace")
    found = list(_TOKEN.finditer(text))
    if not found:
        return content
    token = random.choice(found)
    start = token.start() if random.random() < 0.7 else token.end()
    return (text[:start] + random.choice(WORDS) + text[token.end() :]).encode()


def change_lines(content: bytes, random: Random) -> bytes:
    """Drop, double, empty, join or shuffle lines, or write others in their place."""
    lines = content.splitlines(keepends=True) or [b""]
    at = random.randrange(len(lines))
    kind = random.randrange(7)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines[at] *= random.choice((2, 1000))
    elif kind == 2:
        lines[at] = b"\n" * random.choice((1, 1000))
    elif kind == 3:
        lines[at] = lines[at].rstrip(b"\r\n")
    elif kind == 4:
        random.shuffle(lines)
    elif kind == 5:
        lines[at] = lines[at].rstrip(b"\n") + random.choice((b"\r\n", b"\r", b"\x00\n", b"\x0b\n"))
    else:
        lines[at] = random.choice(WORDS).encode() + b"\n"
    return b"".join(lines)


def reencode(content: bytes, random: Random) -> bytes:
    """Write the text in another encoding, or with a mark that names one."""
    text = content.decode("utf-8", "replace")
    kind = random.choice(("utf-8-sig", "utf-16", "utf-32", "utf-7", "cp037"))
    return text.encode(kind, "replace")


TEXT: tuple[Mutation, ...] = (change_word, change_word, change_word, change_lines, reencode)

# ---- YAML, JSON and XML --------------------------------------------------------------------------

NASTY = (
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "shutil.rmtree",
    "antigravity.fly",
    "pty.spawn",
    "ctypes.CDLL",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.utils.collect_env.run",
    "torch.utils.cpp_extension.load_inline",
    "torch.distributed.elastic.multiprocessing.start_processes",
    "torch.distributed.elastic.multiprocessing.SubprocessHandler",
    "torch.multiprocessing.spawn",
    "lightning.fabric.utilities.cloud_io._load",
    "lightning.pytorch.callbacks.LambdaCallback",
    "torchvision.transforms.Lambda",
    "torchvision.datasets.utils.extract_archive",
    "timm.models.load_checkpoint",
    "numpy.load",
    "yaml.unsafe_load",
    "jsonargparse.CLI",
    "framework.command.cli.main",
    "framework.command.new.main",
    "modules",
    "callbacks..",
    "..",
)
"""Names in the place of classes: code runners, loaders, and things that are no class at all."""

_COMMANDS = ('"touch touched"', '["touch", "touched"]', '"import os"', "{a: 1}", "touched", "[]")
_ALIASES = "\n".join(
    ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    + [f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
)


def change_yaml(content: bytes, random: Random) -> bytes:
    """Put an alias, a tag, a deep nesting, a class or another value somewhere into a YAML file."""
    text = content.decode("utf-8", "replace")
    lines = text.splitlines()
    at = random.randrange(len(lines) + 1)
    kind = random.randrange(12)
    if kind == 0:
        return f"{text}\n{_ALIASES}\n".encode()
    if kind == 1:
        return f"{_ALIASES}\n{text}".encode()
    if kind == 2:
        depth = random.choice((100, 2000, 20000))
        opened, closed = random.choice((("[", "]"), ("{a: ", "}"), ("- ", "")))
        return f"{text}\nx: {opened * depth}1{closed * depth}\n".encode()
    if kind == 3:
        return f"{text}\nx: &x\n  y: *x\n  <<: *x\n".encode()
    value = _nasty_value(random)
    indices = [k for k, line in enumerate(lines) if ":" in line]
    if not indices:
        return text.encode() + f"x: {value}\n".encode()
    at = random.choice(indices)
    key = lines[at].partition(":")[0]
    if kind == 4:
        lines[at] = f"{key}: !!python/object/apply:{random.choice(NASTY)} [touch touched]"
    elif kind == 5:
        lines[at] = f"{key}: {random.choice(WORDS)!r}"
    elif kind == 6:
        lines[at] = f"{key}: {'[' * 50}{']' * 50}"
    elif kind == 7:
        lines.insert(at, lines[random.randrange(len(lines))])
    else:
        lines[at] = f"{key}: {value}"
    return "\n".join(lines).encode("utf-8", "replace")


def _nasty_value(random: Random) -> str:
    name, command = random.choice(NASTY), random.choice(_COMMANDS)
    return random.choice(
        (
            name,
            f"{{class_path: {name}}}",
            f"{{class_path: {name}, init_args: {{command: {command}}}}}",
            f"{{class_path: {name}, init_args: {{args: {command}, shell: true}}}}",
            f"{{class_path: {name}, dict_kwargs: {{command: {command}}}}}",
            f"[{{class_path: {name}, init_args: {command}}}]",
            f"{{__path__: {name}, init_args: {{}}}}",
            command,
            "!!binary aGVsbG8=",
            "!!set {a, b}",
            "!!float .nan",
            "2001-12-14t21:59:43.10-05:00",
            "0b1111",
            "1:30:00",
            "~",
        )
    )


def change_json(content: bytes, random: Random) -> bytes:
    """Nest, repeat or replace a value of a JSON file."""
    text = content.decode("utf-8", "replace")
    values = [*re.finditer(r'-?\d+(?:\.\d+)?|"[^"]*"|true|false|null', text)]
    kind = random.randrange(4)
    if kind == 0 or not values:
        depth = random.choice((100, 5000, 200000))
        opened, closed = random.choice((("[", "]"), ('{"a":', "}")))
        return (opened * depth + "1" + closed * depth).encode()
    value = random.choice(values)
    other = random.choice(
        (
            '"\\ud800"',
            "NaN",
            "-Infinity",
            "1e999",
            "9" * 5000,
            "[]",
            "{}",
            "null",
            "true",
            '""',
            "-1",
            "0",
            "99999999999",
            "0.5",
            '"\\u0000"',
            "[" * 3000 + "]" * 3000,
        )
    )
    if kind == 1:
        other = random.choice(values).group()
    return (text[: value.start()] + other + text[value.end() :]).encode()


def change_xml(content: bytes, random: Random) -> bytes:
    """Put entities, nesting or other text into an XML file."""
    text = content.decode("utf-8", "replace")
    body = re.sub(r"^<\?xml[^>]*\?>\s*", "", text)
    kind = random.randrange(5)
    if kind == 0:
        entities = '<!ENTITY a0 "lol">' + "".join(
            f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12)
        )
        used = re.sub(r">([^<>]+)<", r">&a11;<", body, count=1)
        return f"<!DOCTYPE x [{entities}]>{used}".encode()
    if kind == 1:
        entity = f'<!ENTITY e SYSTEM "{random.choice(("file:///etc/passwd", "../secret/file"))}">'
        used = re.sub(r">([^<>]+)<", r">&e;<", body, count=1)
        return f"<!DOCTYPE x [{entity}]>{used}".encode()
    if kind == 2:
        depth = random.choice((100, 5000, 100000))
        return ("<a>" * depth + body + "</a>" * depth).encode()
    numbers = [*re.finditer(r">([^<>]+)<", text)]
    if not numbers:
        return content
    number = random.choice(numbers)
    word = random.choice((*WORDS, "&#0;", "&#x41;", "<b/>", "<![CDATA[1]]>", "<!--"))
    return (text[: number.start() + 1] + word + text[number.end() - 1 :]).encode()


def mutate(content: bytes, mutations: Sequence[Mutation], random: Random) -> bytes:
    """Return the content after one to three mutations."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = random.choice(mutations)(content, random)
    return content[: 8 << 20]
