"""Loading processes that end, memory that runs out, image files that are corrupt."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from framework.data.datasets import IndexedDataset
from tests.faults.invariant import Whole, assert_goes_on, run, whole_run
from tests.faults.moments import Moments, when
from tests.faults.table import assert_as_told
from tests.helpers.configs import arguments, one_of_many


def ask_for_too_much() -> None:
    torch.empty(1 << 50)


def run_out_of_memory() -> None:
    raise MemoryError


ENDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "killed": ("Loading process killed", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "exits": ("Loading process ends", lambda: os._exit(3)),
    "crashes": ("Loading process ends", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "memory": ("Memory runs out", run_out_of_memory),
    "size": ("Memory runs out", ask_for_too_much),
}
FAULTS = (
    "Loading process killed",
    "Loading process ends",
    "Memory runs out",
    "Corrupt images, before training",
    "Corrupt images, `strict: false`",
    "Image that becomes corrupt during training",
)


def in_worker(batch: int, act: Callable[[], Any]) -> Callable[[], None]:
    """Return what lets the first of the loading processes act before its ``batch``-th batch."""

    def install() -> None:
        read, seen = IndexedDataset.__getitems__, [0]

        def hurt(self: Any, keys: Any) -> Any:
            worker = get_worker_info()
            if worker is not None and worker.id == 0:
                seen[0] += 1
                if seen[0] == batch:
                    act()
            return read(self, keys)

        IndexedDataset.__getitems__ = hurt  # type: ignore[method-assign]

    return install


@pytest.mark.parametrize("way", [one_of_many(w, quick=w == "killed") for w in ENDS])
def test_a_loading_process_ends(way: str, whole: Whole, tmp_path: Path) -> None:
    fault, act = ENDS[way]
    # of four batches in an epoch it loads two
    args = [*whole.args, "--data.num_workers=2"]
    outcome = run(args, tmp_path / "run", before=in_worker(5, act))
    if way == "killed" and "ended;" in outcome.said:
        # torch knows no more where its handler was not heard
        fault = "Loading process ends"
    assert_as_told(fault, outcome)
    assert_goes_on(whole, tmp_path / "run")


@pytest.mark.parametrize(
    "act", [one_of_many(run_out_of_memory, quick=False), ask_for_too_much], ids=["", "size"]
)
def test_memory_runs_out_in_the_run(act: Callable[[], None], whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    moments = Moments(folder, when("hook", "on_before_backward", 6), act)
    assert_as_told("Memory runs out", run(whole.args, folder, moments))
    assert_goes_on(whole, folder)


# ---- image files --------------------------------------------------------------------------------


def images(root: Path, number: int = 48) -> list[str]:
    """Write images of two classes, and return the command line of a run over them."""
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for k in range(number // 2):
            pixels = torch.randint(100, (12, 12, 3), generator=generator) + 100 * label
            Image.fromarray(pixels.byte().numpy()).save(root / name / f"{k:02}.png")
    data = {"data": "ImageFolder", "data.root": root, "data.batch_size": 12, "data.val_size": 12}
    return [*arguments("classifier"), *(f"--{name}={value}" for name, value in data.items())]


def damage(path: Path) -> bytes:
    """Cut a file in half, and return what it was."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content


@pytest.mark.parametrize("every", [one_of_many(2, quick=False), 10])
def test_corrupt_images_are_all_named_before(every: int, tmp_path: Path) -> None:
    args = images(tmp_path / "images")
    damaged = sorted((tmp_path / "images").rglob("*.png"))[::every]
    for path in damaged:
        damage(path)
    outcome = run(args, tmp_path / "run")
    assert_as_told(FAULTS[3], outcome)
    assert f"{len(damaged)} of the 48 images" in outcome.said
    assert not (tmp_path / "run").exists()
    outcome = run([*args, "--data.strict=false", "--data.val_size=0.2"], tmp_path / "run")
    assert_as_told(FAULTS[4], outcome)
    assert any(re.match(rf"trimtab: {len(damaged)} of the 48", line) for line in outcome.lines)
    assert outcome.record is not None
    trained = {i for step in outcome.record.steps for i in step["index"]}
    assert max(trained) < 48 - len(damaged)


@pytest.mark.parametrize("workers", [one_of_many(0, quick=False), 2])
def test_an_image_that_becomes_corrupt(workers: int, tmp_path: Path) -> None:
    args = [*images(tmp_path / "images"), f"--data.num_workers={workers}"]
    whole = whole_run(args, tmp_path / "whole")
    folder = tmp_path / "run"
    files = sorted((tmp_path / "images").rglob("*.png"))

    def spoil() -> None:
        for path in files[::4]:
            damage(path)

    before = {path: path.read_bytes() for path in files}
    moments = Moments(folder, when("hook", "on_train_batch_end", 4), spoil)
    assert_as_told(FAULTS[5], run(whole.args, folder, moments))
    for path, content in before.items():
        path.write_bytes(content)
    assert_goes_on(whole, folder)
