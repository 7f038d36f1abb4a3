"""What is better said of an error of the system, or of another process, than its own words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from framework.runs.lost_rank import ANOTHER_RANK

_TORCH_WRITES = re.compile(r"PytorchStreamWriter|inline_container\.cc(?!.*Reader)", re.DOTALL)
_NO_MEMORY = re.compile(r"can't allocate memory|\b_?\w*MemoryError\b.*DataLoader worker", re.DOTALL)
_ASKED = re.compile(r"tried to allocate (\d+) bytes|Unable to allocate ([\d.]+ [KMGTPE]iB)")
_LOADER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) "
    r"(?:is killed by signal: ([^.]+)\.|exited unexpectedly(?: with exit code (\d+))?)"
)


def own_words(error: BaseException) -> str:
    """Return what is better said of an error of the system or of another process, or nothing.

    Example:
        >>> own_words(OSError(28, "No space left on device"))
        'no space left on device'
        >>> own_words(ValueError("3 is no share"))
        ''
    """
    chain = list(_chain(error))
    notes = [note for cause in chain for note in getattr(cause, "__notes__", ())]
    if ended := [note for note in notes if note.startswith(ANOTHER_RANK)]:
        return ended[0]
    if ended := [found for cause in chain if (found := _LOADER.search(str(cause)))]:
        # the one that says most
        return _of_loader(max(ended, key=lambda found: bool(found[2]) + bool(found[3])))
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return _of_memory(str(error))
    written_by_torch = bool(_TORCH_WRITES.search(str(error)))
    for cause in chain if written_by_torch else chain[:1]:
        if isinstance(cause, OSError) and cause.strerror:
            reason = f"{cause.strerror[:1].lower()}{cause.strerror[1:]}"
            return f"{cause.filename}: {reason}" if cause.filename else reason
    return "a file could not be written whole: is the disk full?" if written_by_torch else ""


def _of_loader(found: re.Match[str]) -> str:
    """Say how a loading process ended, and what to do."""
    who = f"a loading process ({found[1]})"
    if found[2] == "Killed":
        return (
            f"{who} was killed, as the system does where memory runs out: take fewer of them by "
            "--data.num_workers"
        )
    how = f" with exit code {found[3]}" if found[3] else ""
    how = f": {found[2].lower()}" if found[2] else how
    return f"{who} ended{how}; --data.num_workers 0 shows where"


def _of_memory(text: str) -> str:
    asked = _ASKED.search(text)
    size = f" ({asked[2] or f'{int(asked[1]):,} bytes'} were asked for)" if asked else ""
    return (
        f"memory ran out{size}: a smaller --data.batch_size and fewer --data.num_workers take less"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, each once."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
