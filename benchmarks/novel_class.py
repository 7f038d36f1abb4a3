"""Digits that are added without training: plain softmax beside the constrained head, by its scale.

    python -m benchmarks.novel_class [--seeds 5]

The runs of ``configs/novel_class.yaml`` with a fifth of the rows to evaluate; each seed draws
another fifth, other supports and other weights. All classes get their vectors in the same way, also
beside those of the plain softmax, which are divided by their norms.
"""

from __future__ import annotations

from benchmarks.experiment import parser, print_arms

SHOTS = (1, 5, 20)
NAMES = ("disjoint", "joint", "joint_on_novel", "joint_on_base")
HEAD = "--model.head=HypersphericalHead"
PROJECTED = "--trainer.callbacks+={class_path: UnitNormProjection}"


def arms() -> dict[str, list[str]]:
    """Return the heads that are compared."""
    scaled = {
        f"constrained, s = {scale}": [HEAD, f"--model.head.scale={scale}"]
        for scale in (4, 10, 20, 40)
    }
    projected = [HEAD, "--model.head.scale=10", "--model.head.constraint=project", PROJECTED]
    return {
        "plain softmax": ["--model.head=SoftmaxHead"],
        **scaled,
        "projected, s = 10": projected,
    }


def main() -> None:
    """Run and print."""
    arguments = parser(__doc__, seeds=5).parse_args()
    data = ["val_size=360", "test_size=0", "split_seed=SEED"]
    settings = [
        "--config=configs/novel_class.yaml",
        *(f"--data.data.{setting}" for setting in data),
        "--data.support_seed=SEED",
        "--trainer.check_val_every_n_epoch=50",
    ]
    metrics = [f"val/{name}@{k}" for name in NAMES for k in SHOTS]
    runs = {name: [*settings, *arm] for name, arm in arms().items()}
    print_arms("Digits 7, 8 and 9 added to 0 to 6", runs, arguments.seeds, metrics)


if __name__ == "__main__":
    main()
