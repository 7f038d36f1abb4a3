"""The list of readers, each with a small valid sample that is made and not stored."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile.container_mutations import (
    PICKLE,
    change_header,
    change_pickle,
    change_zip,
)
from tests.hostile.mutations import BYTES, TEXT, Mutation, change_json, change_yaml


@dataclass(frozen=True)
class Reader:
    """A function that turns files from anywhere into data.

    Args:
        name: Name in messages and in the command that repeats an input.
        make: Function that returns {name of file: content} of a small valid sample.
        read: Function that reads the sample from the folder in which its files lie.
        functions: Functions, ``module:name``, whose opening and parsing it goes through.
        mutations: Mutations of the files that any of them is changed by.
        is_direct: Whether it refuses by an error that names the file; else by one that the command
            turns into a line.
    """

    name: str
    make: Callable[[], dict[str, bytes]]
    read: Callable[[Path], Any]
    functions: tuple[str, ...]
    mutations: Sequence[Mutation]
    is_direct: bool = True


READERS: dict[str, Reader] = {}


def reader(
    name: str,
    make: Callable[[], dict[str, bytes]],
    functions: Sequence[str],
    mutations: Sequence[Mutation],
    is_direct: bool = True,
) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Register a function that reads a sample from a folder."""

    def add(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        assert name not in READERS
        READERS[name] = Reader(name, make, read, tuple(functions), mutations, is_direct)
        return read

    return add


def packed(save: Callable[[io.BytesIO], Any]) -> bytes:
    """Return what a function writes into a file."""
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def saved(value: Any, old: bool = False) -> bytes:
    """Return what ``torch.save`` writes."""
    return packed(lambda file: torch.save(value, file, _use_new_zipfile_serialization=not old))


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (6, 8, 7), dtype=np.uint8)
NUMBERS = RNG.normal(size=(12, 4)).astype(np.float32)
LABELS = np.arange(12) % 3
TENSORS = [*[change_zip((*PICKLE, change_pickle))] * 3, *BYTES]
OLD_TENSORS = PICKLE
TEXTS = (*TEXT, *BYTES)
JSON = (change_json, change_json, *TEXT, *BYTES)
YAML = (*[change_yaml] * 4, *TEXT, *BYTES)
SAFETENSORS = (change_header(0), change_header(0), *BYTES)
