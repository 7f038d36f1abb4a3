"""In how many steps normalized logistic regression separates MNIST's 3 from its 5.

    python -m benchmarks.normalized_logistic_mnist --data FOLDER

FOLDER holds ``mnist/MNIST/raw``. Prints the iterations to zero training errors, of gradient
descent on the logistic loss, normalized or not, by step size (``inf`` is the batch perceptron), on
the first 450 digits 3 and the first 450 or 30 digits 5 of the file; pixels in [0, 1], no intercept.
The reference is a run of the same protocol on another choice of digits.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from benchmarks.experiment import parser
from datamodules.idx import read_idx
from framework.solvers import NormalizedLogisticRegression

STEP_SIZES = (0.1, 1.0, 10.0, 100.0, np.inf)
MAX_ITER = 10_000
REFERENCE = {
    (450, True): "935 / 406 / 352 / 437 / 394",
    (450, False): "> 3000 / 1502 / 342 / 318 / 323",
    (30, True): "107 / 66 / 79 / 73 / 79",
    (30, False): "1045 / 104 / 35 / 35 / 39",
}


def digits(folder: Path, rows: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first digits 3 and 5, (n, 784) in [0, 1], and what they are."""
    label = read_idx(folder / "train-labels-idx1-ubyte", ndim=1).numpy()
    images = read_idx(folder / "train-images-idx3-ubyte", ndim=3).flatten(1).numpy()
    chosen = np.concatenate(
        [np.flatnonzero(label == d)[:n] for d, n in zip((3, 5), rows, strict=True)]
    )
    return images[chosen] / 255, label[chosen]


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=1)
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    folder = Path(arguments.data) / "mnist" / "MNIST" / "raw"
    print("| iterations | gamma | " + " / ".join(map(str, STEP_SIZES)) + " | reference |")
    print("| --- | --- | --- | --- |")
    warnings.simplefilter("ignore", ConvergenceWarning)
    for fives in (450, 30):
        X, y = digits(folder, (450, fives))
        for normalize in (True, False):
            counts = []
            for step_size in STEP_SIZES:
                model = NormalizedLogisticRegression(step_size, MAX_ITER, normalize, False)
                model.fit(X, y)
                solved = model.score(X, y) == 1.0
                counts.append(f"{model.n_iter_}" if solved else f"> {MAX_ITER}")
            name = "normalized" if normalize else "plain"
            line = " / ".join(counts)
            print(
                f"| 450 + {fives} | {name} | {line} | {REFERENCE[fives, normalize]} |", flush=True
            )


if __name__ == "__main__":
    main()
