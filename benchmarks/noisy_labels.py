"""How robust losses fare on MNIST with 40 % wrong labels.

    python -m benchmarks.noisy_labels --data FOLDER [--seeds 4]

FOLDER holds ``mnist/MNIST/raw``. Trains ``configs/noisy_mnist.yaml`` (4,000 digits, perceptron,
30 epochs) with every loss and prints the accuracy on 56,000 clean digits, at the last epoch and at
the best of every fifth, which nobody could have chosen without clean labels.
"""

from __future__ import annotations

from benchmarks.experiment import parser, print_arms

LDR = ["--model.criterion=LDRLoss", "--model.criterion.normalize=l1"]
LOSSES = {
    "cross-entropy": [],
    "cross-entropy, clean labels": ["--data.label_noise.rate=0"],
    "CompSum, tau 0.5": ["--model.criterion=CompSumLoss", "--model.criterion.tau=0.5"],
    "CompSum, tau 1.7": ["--model.criterion=CompSumLoss", "--model.criterion.tau=1.7"],
    "CompSum, tau 2": ["--model.criterion=CompSumLoss", "--model.criterion.tau=2"],
    "LDR, lambda 1": [*LDR, "--model.criterion.lam=1"],
    "LDR, lambda 10": [*LDR, "--model.criterion.lam=10"],
    "ALDR, lambda 1": ["--model.criterion=ALDRLoss"],
    "ALDR, lambda 1, alpha 1.25": ["--model.criterion=ALDRLoss", "--model.criterion.alpha=1.25"],
    "ALDR, lambda 10": ["--model.criterion=ALDRLoss", "--model.criterion.lam0=10"],
}
REFERENCE = {
    "cross-entropy": "0.811 ± 0.010 / 0.898",
    "cross-entropy, clean labels": "0.946",
    "CompSum, tau 0.5": "0.761 ± 0.003",
    "CompSum, tau 1.7": "0.894 ± 0.008",
    "CompSum, tau 2": "0.784 ± 0.042",
    "LDR, lambda 1": "0.816 ± 0.046",
    "LDR, lambda 10": "0.910 ± 0.006",
    "ALDR, lambda 1": "0.813 ± 0.079",
    "ALDR, lambda 1, alpha 1.25": "0.800 ± 0.094",
    "ALDR, lambda 10": "0.901 ± 0.007",
}


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=4)
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    base = [
        "--config=noisy_mnist",
        f"--data.root={arguments.data}/mnist",
        "--data.split_seed=SEED",
        "--data.label_noise.seed=SEED",
    ]
    print_arms(
        "4,000 MNIST digits, 40 % symmetric label noise",
        {name: [*base, *loss] for name, loss in LOSSES.items()},
        arguments.seeds,
        ["val/accuracy", "best:val/accuracy"],
        REFERENCE,
    )


if __name__ == "__main__":
    main()
