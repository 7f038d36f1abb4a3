"""Makes pages of the templates: texts of others are escaped, and no other script can run."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from framework.utilities.console import plain
from framework.utilities.files import write_text
from framework.utilities.limits import open_file

TEMPLATES = Path(__file__).parent / "templates"
MARK = "<!doctype html>\n<!-- Made by trimtab report. -->\n"
"""Beginning of every page, by which one is known that may be replaced."""
FILE_NAME = "report.html"


def render(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    """Return a page that needs nothing else.

    Args:
        template: File of the template.
        scripts: Files of the scripts, in order.
        **values: What the template shows; ``data`` is what the scripts read.
    """
    style = _source("report.css")
    script = "".join(map(_source, scripts))
    page = _environment().get_template(template)
    shown = page.render(
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        **values,
    )
    # a half of a letter from a file's name has no form in UTF-8
    return MARK + shown.encode("utf-8", "replace").decode()


def write_page(path: Path, page: str) -> None:
    """Write a page in the place of an earlier one.

    Raises:
        FileExistsError: What lies there is no page of ours.
        WriteError: It cannot be written.
    """
    if path.exists() or path.is_symlink():
        try:
            with open_file(path) as file:
                is_ours = file.read(len(MARK)) == MARK.encode()
        except (OSError, ValueError):
            is_ours = False
        if not is_ours:
            raise FileExistsError(
                f"{path} is there, and is no report: remove it, or choose a place by trimtab "
                "report RUN --output FILE."
            )
    write_text(path, page)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "duration": duration, "moment": moment, "plain": _plain}
    return made


@cache
def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return a policy by which a browser runs our script and style alone, and loads nothing."""
    style_hash, script_hash = (
        b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )


def number(value: Any) -> str:
    """Return a value as it is shown.

    Example:
        >>> number(0.123456), number(12345), number(None)
        ('0.1235', '12,345', '')
    """
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return how long something took.

    Example:
        >>> duration(7.25), duration(3700)
        ('7.2 s', '1 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(seconds: float) -> str:
    """Return a time as this machine's clock shows it; nothing for one that no clock knows."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    except (ValueError, OverflowError, OSError):
        return ""


def _plain(value: Any) -> str:
    return plain(str(value))
