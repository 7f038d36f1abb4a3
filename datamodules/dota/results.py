"""Scores result files against label files, as DOTA's evaluation code does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.dota.classes import CLASS_NAMES
from datamodules.dota.labels import read_labels
from framework.data.folders import is_hidden
from framework.detection.average_precision import Interpolation
from framework.detection.result_files import classes_with_results, read_results
from framework.detection.rotated_average_precision import RotatedMeanAveragePrecision
from framework.utilities.console import PlainConsole


def evaluate_results(
    results: str | Path,
    labels: str | Path,
    class_names: Sequence[str],
    interpolation: Interpolation = "voc12",
) -> dict[str, Tensor]:
    r"""Return the average precision of ``Task1_<class>.txt`` on the images that have labels.

    Args:
        results: Folder of the result files.
        labels: Folder of the label files, one for each image.
        class_names: Names of the classes, by label.
        interpolation: Interpolation of ``map``, ``map_75`` and ``ap_50``.

    Returns:
        What ``RotatedMeanAveragePrecision`` does.

    Raises:
        FileNotFoundError: no label file, or a class without a result file.
        ValueError: by file and line, what cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "P1.txt").write_text("0 0 8 0 8 4 0 4 ship 0\n20 0 28 0 28 4 20 4 ship 0")
        >>> (folder / "found").mkdir()
        >>> _ = (folder / "found" / "Task1_ship.txt").write_text("P1 0.9 0 0 8 0 8 4 0 4")
        >>> evaluate_results(folder / "found", folder, ["ship"])["map_50"]
        tensor(0.5000)
    """
    files = sorted(path for path in Path(labels).glob("*.txt") if not is_hidden(path.name))
    if not files:
        raise FileNotFoundError(f"{labels} holds no label file.")
    found = read_results(results, [path.stem for path in files], class_names)
    metric = RotatedMeanAveragePrecision(len(class_names), interpolation=interpolation)
    truth = []
    for path in files:
        objects = read_labels(path, class_names)
        fields = {"boxes": objects.quads, "labels": objects.label}
        truth.append({**fields, "difficult": objects.difficult > 0})
    metric.update(found, truth, torch.arange(len(files)))
    return metric.compute()


def main(args: Sequence[str] | None = None) -> None:
    """Run the command, which prints a table of the classes.

    Raises:
        SystemExit: With a message where the files cannot be scored.
    """
    parser = argparse.ArgumentParser(prog="python -m datamodules.dota.results")
    parser.add_argument("results", help="folder of Task1_<class>.txt")
    parser.add_argument("labels", help="folder of label files in DOTA's form")
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--classes", help="classes, such as plane,ship; default those with a file")
    names.add_argument("--version", choices=list(CLASS_NAMES), help="version of DOTA's classes")
    arguments = parser.parse_args(args)
    try:
        if arguments.version is not None:
            classes = list(CLASS_NAMES[arguments.version])
        elif arguments.classes is not None:
            classes = arguments.classes.split(",")
        else:
            classes = classes_with_results(arguments.results)
        values = evaluate_results(arguments.results, arguments.labels, classes)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from None
    console = PlainConsole()
    for name, precision in zip(classes, values["ap_50"].reshape(-1).tolist(), strict=True):
        console.print(
            f"{name:20s} {'no objects' if precision != precision else f'{precision:.4f}'}"
        )
    for name in ("map_50_voc07", "map_50_voc12", "map_75", "map"):
        console.print(f"{name:20s} {float(values[name]):.4f}")


if __name__ == "__main__":
    main()
