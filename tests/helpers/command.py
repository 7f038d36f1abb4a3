"""The command as a person calls it, and what it answers to a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

import trimtab


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one-line message with which a command line is refused."""
    with pytest.raises(SystemExit) as stop:
        trimtab.main(args)
    assert stop.value.code not in (0, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("trimtab: ")]
    assert said == lines[-1:], lines
    assert said[0].endswith(".")
    assert len(said[0]) <= 320
    assert not list(Path().rglob("checkpoints"))
    return said[0].removeprefix("trimtab: ")
