"""What the command shows of warnings."""

from __future__ import annotations

import warnings

from framework.command.cli import error_messages


def test_a_warning_is_one_line_without_a_place_in_the_code(monkeypatch):
    monkeypatch.delenv("TRIMTAB_TRACEBACK", raising=False)
    before = warnings.formatwarning
    with error_messages():
        shown = warnings.formatwarning("two images\n are left out.", UserWarning, __file__, 1)
        assert shown == "trimtab: two images are left out.\n"
    assert warnings.formatwarning is before
    monkeypatch.setenv("TRIMTAB_TRACEBACK", "1")
    with error_messages():
        assert warnings.formatwarning is before
