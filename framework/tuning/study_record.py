"""What a study was begun with, beside its journal, and whether it is still the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from framework.utilities.error_reason import reason_of
from framework.utilities.files import write_text
from framework.utilities.yaml_files import load_yaml, read_yaml

RECORD, BASE = "study.yaml", "base.yaml"


def write_record(folder: Path, record: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Write what a study is begun with.

    Args:
        folder: Folder of the study.
        record: Settings that must stay the same.
        base: Whole config of the fit.
    """
    write_text(folder / RECORD, _text(record))
    write_text(folder / BASE, _text(base))


def changed(folder: Path, record: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Return in words what differs first from the study in a folder; '' where nothing does.

    Args:
        folder: Folder of the study.
        record: Settings that must stay the same.
        base: Whole config of the fit.
    """
    for name, now in ((RECORD, record), (BASE, base)):
        try:
            before = read_yaml(folder / name)
        except (OSError, ValueError) as error:
            return f"{name} cannot be read ({reason_of(error)})"
        # what YAML makes of both is compared
        if difference := _difference(before, load_yaml(_text(now), name)):
            return difference
    return ""


def _text(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False)


def _difference(before: Any, now: Any, place: str = "") -> str:
    """Return in words where two configs differ first; '' where they do not."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            here = f"{place}.{key}" if place else str(key)
            if key not in before or key not in now:
                return f"{here} was {'given' if key in before else 'not given'} before"
            if found := _difference(before[key], now[key], here):
                return found
        return ""
    if before == now and type(before) is type(now):
        return ""
    return f"{place or 'it'} is {str(now)[:80]} and was {str(before)[:80]}"
