"""Tests of arguments handed on to a base class, and of numbers."""

from __future__ import annotations

from typing import Any, Optional, TypedDict, Union, Unpack

import pytest
from jsonargparse import ArgumentParser

from framework.command.jsonargparse_internals import (
    read_options_from_signatures,
    read_whole_numbers_as_integers,
)


class Options(TypedDict, total=False):
    size: int
    name: str | None


class Base:
    """Base.

    Args:
        size: Size of the base.
        name: Name of it all.
        hidden: Argument that the options lack.
    """

    def __init__(self, size: int = 3, name: str | None = None, hidden: bool = False) -> None:
        self.size = size


class Between(Base):
    """Takes the options on their way."""

    def __init__(self, rate: float = 0.5, **options: Unpack[Options]) -> None:
        super().__init__(**options)


class Leaf(Between):
    """Leaf.

    Args:
        size: Size of a leaf.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(rate=0.1, **options)


def test_unpacked_options_keep_default_type_and_text(capsys):
    read_options_from_signatures()
    read_options_from_signatures()  # once per command, as often as a process runs one
    parser = ArgumentParser()
    parser.add_class_arguments(Leaf, "leaf")
    parsed = parser.parse_args(["--leaf.name=a"]).leaf
    assert parsed.as_dict() == {"size": 3, "name": "a"}
    assert isinstance(parser.instantiate(parser.parse_args([])).leaf, Leaf)
    text = " ".join(parser.format_help().split())
    assert "Size of a leaf. (type: int, default: 3)" in text
    assert "Name of it all. (type: str | null, default: null)" in text


@pytest.mark.parametrize(
    "hint",
    [Union[float, int], Optional[Union[float, int]], int | float, float | int | str | None],  # noqa: UP007, UP045
)
@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("1e-3", 1e-3)])
def test_a_whole_number_is_an_integer(hint: Any, text: str, value: Any) -> None:
    read_whole_numbers_as_integers()
    parser = ArgumentParser()
    parser.add_argument("--size", type=hint)
    found = parser.parse_args([f"--size={text}"]).size
    assert (type(found), found) == (type(value), value)
