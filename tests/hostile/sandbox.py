"""Calls readers in a child that may read only, and says of every call what it did beyond."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ADDRESS_SPACE = 3 << 29
"""Bytes that the child may map beyond what it has at its start."""
RESIDENT = 320 << 20
"""Bytes of memory that one call may hold beyond what the child held before it."""
CPU_SECONDS = 8.0
"""Processor time of one call, from which on it counts as hanging."""
WALL_SECONDS = 120.0
"""Time after which a call that uses no processor counts as hanging."""
FILE_SIZE = 256 << 20

STARTS_CODE = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "os.kill",
    "os.killpg",
    "code.__new__",
    "ctypes.dlopen",
    "pickle.find_class",
    "webbrowser.open",
    "cpython.run_command",
    "cpython.run_file",
)
LIBRARIES = (None, "libnvidia-ml.so.1")
"""Libraries that Lightning looks for at every start of a Trainer."""
TALKS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "sqlite3.connect")
# event -> positions of the paths that it changes, and of their folders' descriptors
CHANGES = {
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
    "os.removexattr": ((0, None),),
    "shutil.rmtree": ((0, 1),),
    "shutil.move": ((0, None), (1, None)),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# libraries that evaluate the annotations and fields of their own classes
EVALUATES = ("typing.py", "dataclasses.py", "collections/__init__.py", "inspect.py", "enum.py")


@dataclass(frozen=True)
class Fault:
    """What a call did that no call may do; ``kind`` says it briefly."""

    number: int
    kind: str
    detail: str


class Watch:
    """An audit hook that notes what it sees between ``start`` and ``stop``, and forbids it.

    Args:
        folder: Folder below which files may be written.
        secret: Folder that must not even be read.
    """

    def __init__(self, folder: Path, secret: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.secret = os.path.realpath(secret)
        self.active = False
        self.seen: list[tuple[str, str]] = []
        places = sysconfig.get_paths()
        self.installed = tuple(
            os.path.realpath(places[name]) + os.sep for name in ("purelib", "platlib")
        )
        self.library = os.path.realpath(places["stdlib"]) + os.sep
        self.packages: set[str] = set()
        sys.addaudithook(self)

    def start(self) -> None:
        """Watch from here on; only packages that are imported already may import more."""
        if not self.packages:
            self.packages = {name.partition(".")[0] for name in sys.modules}
        self.seen = []
        self.active = True

    def stop(self) -> list[tuple[str, str]]:
        """Return what was seen."""
        self.active = False
        return self.seen

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        self.active = False  # what is asked here is no doing of the reader
        try:
            said = self._judge(event, args)
        finally:
            self.active = True
        if said:
            self.seen.append((event, said))
            raise PermissionError(f"forbidden: {event} {said}")

    def _judge(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event == "ctypes.dlopen" and args[0] in LIBRARIES:
            return None
        if event.startswith(STARTS_CODE) or event in TALKS:
            return repr(args)[:200]
        if event == "exec":
            return self._foreign_code(args[0])
        if event == "import":
            return None if args[0].partition(".")[0] in self.packages else str(args[0])
        if event == "open":
            return self._opened(*args)
        for path, folder in CHANGES.get(event, ()):
            place = self._resolved(args[path], None if folder is None else args[folder])
            if not self._is_inside(place):
                return place
        return None

    def _opened(self, path: Any, mode: Any, flags: int) -> str | None:
        if isinstance(path, int):
            return None
        place = self._resolved(path, None)
        if place.startswith(self.secret):
            return f"{place} (read)"
        if place == os.devnull or not flags & WRITES or self._is_inside(place):
            return None
        return f"{place} (written)"

    def _resolved(self, path: Any, folder: int | None) -> str:
        if isinstance(path, int):
            return os.path.realpath(f"/proc/self/fd/{path}")
        text = os.fsdecode(path)
        if folder is not None and folder >= 0:
            text = os.path.join(os.path.realpath(f"/proc/self/fd/{folder}"), text)
        # a link itself is what is removed
        head, tail = os.path.split(os.path.abspath(text))
        return os.path.join(os.path.realpath(head), tail)

    def _is_inside(self, place: str) -> bool:
        return place == self.folder or place.startswith(self.folder + os.sep)

    def _foreign_code(self, code: Any) -> str | None:
        name = code.co_filename if isinstance(code, CodeType) else str(code)
        if not name.startswith("<"):
            place = os.path.realpath(name)
            for root in self.installed:
                if place.startswith(root):
                    package = place.removeprefix(root).partition(os.sep)[0].partition(".")[0]
                    return None if package in self.packages else place
            if place.startswith(self.library):
                package = place.removeprefix(self.library).partition(os.sep)[0].partition(".")[0]
                return None if package in self.packages else place
            ours = str(Path(__file__).resolve().parents[2]) + os.sep
            return None if place.startswith(ours) else place
        frame = sys._getframe(3)
        caller = frame.f_code.co_filename
        if caller.endswith(EVALUATES) or caller.startswith(self.installed):
            return None
        return f"{name} by {caller}"


def run_watched(
    case: Callable[[int], Callable[[], Any]],
    numbers: Sequence[int],
    judge: Callable[[BaseException], str | None],
    folder: Path,
    secret: Path,
) -> list[Fault]:
    """Call ``case(number)()`` for every number in children, and return the faults.

    One child serves many numbers; when one dies or hangs, another goes on behind it.

    Args:
        case: Function that prepares an input and returns the call that reads it.
        numbers: Numbers of the inputs.
        judge: Function that says what is wrong with an exception, or None.
        folder: Folder below which calls may write.
        secret: Folder from which they may not read.
    """
    faults: list[Fault] = []
    rest = list(numbers)
    while rest:
        at, found, ended = _in_child(case, rest, judge, folder, secret)
        faults += found
        if ended is None:
            break
        faults.append(Fault(rest[at], *ended))
        rest = rest[at + 1 :]
    return faults


def _in_child(
    case: Callable[[int], Callable[[], Any]],
    numbers: Sequence[int],
    judge: Callable[[BaseException], str | None],
    folder: Path,
    secret: Path,
) -> tuple[int, list[Fault], tuple[str, str] | None]:
    place = mmap.mmap(-1, 8)  # where the child is, shared with it
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(receiver)
            _serve(case, numbers, judge, folder, secret, place, sender)
            code = 0
        except BaseException:
            text = traceback.format_exc()
            os.write(sender, json.dumps([-1, "harness", text]).encode() + b"\n")
        finally:
            os._exit(code)
    os.close(sender)
    try:
        text, why = _follow(pid, receiver, place)
    finally:
        os.close(receiver)
    found = [Fault(*json.loads(line)) for line in text.splitlines() if line.strip()]
    at = struct.unpack("q", place[:8])[0]
    broken = [fault for fault in found if fault.kind == "harness"]
    if broken:
        raise RuntimeError(f"input {numbers[at]}: {broken[0].detail}")
    return at, found, why


def _follow(pid: int, receiver: int, place: mmap.mmap) -> tuple[str, tuple[str, str] | None]:
    """Return what a child wrote, and how it ended if that was before its last input."""
    text = b""
    at, since, used = -1, time.monotonic(), 0.0
    while True:
        ready, _, _ = select.select([receiver], [], [], 0.5)
        if ready:
            part = os.read(receiver, 1 << 16)
            if not part:
                break
            text += part
            continue
        now = struct.unpack("q", place[:8])[0]
        spent = _cpu_seconds(pid)
        if now != at:
            at, since, used = now, time.monotonic(), spent
        elif spent - used > CPU_SECONDS or time.monotonic() - since > WALL_SECONDS:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return text.decode(), ("hang", f"over {spent - used:.0f} s of processor time")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        return text.decode(), ("crash", signal.Signals(-code).name)
    return text.decode(), None


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve(
    case: Callable[[int], Callable[[], Any]],
    numbers: Sequence[int],
    judge: Callable[[BaseException], str | None],
    folder: Path,
    secret: Path,
    place: mmap.mmap,
    sender: int,
) -> None:
    import torch

    faulthandler.disable()
    torch.set_num_threads(1)
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    watch = Watch(folder, secret)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = _kibibytes("VmSize") * 1024 + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for at, number in enumerate(numbers):
        place[:8] = struct.pack("q", at)
        call = case(number)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _kibibytes("VmHWM")
        said: str | None = None
        watch.start()
        try:
            call()
        except BaseException as error:
            found = watch.stop()
            said = judge(error)
        else:
            found = watch.stop()
        peak = (_kibibytes("VmHWM") - before) * 1024
        faults = [(event, detail) for event, detail in found]
        if said and not found:
            faults.append(("refusal", said))
        if peak > RESIDENT:
            faults.append(("memory", f"{peak >> 20} MiB"))
        for kind, detail in faults:
            os.write(sender, json.dumps([number, kind, detail]).encode() + b"\n")


def _kibibytes(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0])
