"""Every file in examples/slurm runs as it is, and gives the numbers of one process."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.helpers.runs import ROOT, largest_difference
from tests.slurm.jobs import EXAMPLES, Place, state

DOUBLE = "--trainer.precision=64-true"


def last_metrics(folder: Path) -> dict[str, float]:
    """Return the last value of every metric."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {k: float(row[k]) for row in rows for k in row if row[k]}


def test_every_file_is_run_here() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    names = [path.stem for path in EXAMPLES.iterdir()]
    assert [name for name in names if f'submit("{name}"' not in text] == []


def test_several_nodes_are_one_process(place: Place) -> None:
    args = [*place.config(), DOUBLE]
    options = ("--ntasks-per-node=1", "--gpus-per-node=1")
    job = place.submit("several_nodes", *args, sbatch=options).end()
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log
    command = [sys.executable, "-m", "trimtab", "fit", "--config=classifier", *args]
    done = subprocess.run([*command, "--run_folder=one"], cwd=place.path, check=False)
    assert done.returncode == 0
    one, two = place.path / "one", job.folder
    assert sorted(path.name for path in job.folder.iterdir()) == sorted(
        path.name for path in one.iterdir()
    )
    weights = [state(folder)["state_dict"] for folder in (one, two)]
    assert largest_difference(*weights) < 1e-12
    # they are logged as float32
    assert last_metrics(two) == pytest.approx(last_metrics(one), abs=1e-6)
    assert "\r" not in job.log


def test_one_node_trains_and_tests(place: Place) -> None:
    job = place.submit("one_node", *place.config()).end()
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log
    assert (job.folder / "metrics_test.csv").exists()
    assert [path.name for path in job.folder.parent.iterdir()] == [job.folder.name]


def test_the_script_of_the_page(place: Place) -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if f"slurm/{path.name}" not in page] == []
    (script,) = re.findall(r"```bash\n#!/bin/bash\n(.*?)```", page, re.DOTALL)
    path = place.script(script.rstrip() + ' "$@"\n')
    job = place.submit(path, *place.config()).end()
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log


def test_without_gpus(place: Place) -> None:
    options = ("--gpus-per-node=0", "--ntasks-per-node=1")
    job = place.submit("one_node", *place.config(), sbatch=options).end()
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log


def test_local_data(place: Place) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        folder = place.path / "pets" / name
        folder.mkdir(parents=True)
        for number in range(30):
            pixels = torch.randint(256, (8, 8), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    archive = place.path / "pets.tar"
    with tarfile.open(archive, "w") as file:
        file.add(place.path / "pets", "pets")
    job = place.submit("local_data", str(archive), *place.config()).end()
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log
    assert (job.folder / "checkpoints" / "last.ckpt").exists()
    root = yaml.safe_load((job.folder / "config.yaml").read_text())["data"]["init_args"]["root"]
    assert f"trimtab-{job.name}/pets" in root
    assert not Path(root).exists()


def test_torchrun(place: Place) -> None:
    args = [*place.config(), DOUBLE]
    job = place.submit("torchrun", *args, sbatch=("--gpus-per-node=1",)).end()
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log
    (folder,) = (place.path / "runs" / "classifier").iterdir()
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert state(folder)["global_step"] == 20


def test_the_arguments_go_to_fit() -> None:
    for path in EXAMPLES.iterdir():
        assert '"$@"' in path.read_text()
        assert str(ROOT) not in path.read_text()
