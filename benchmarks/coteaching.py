"""Nested dropout and co-teaching on MNIST with 40 % wrong labels.

    python -m benchmarks.coteaching --data FOLDER [--seeds 2]

FOLDER holds ``mnist/MNIST/raw``. 4,000 digits, a perceptron with 256 features and no bias in its
head; stage 1 trains 25 epochs, stage 2 ten more at a learning rate of 0.01 with forget rate 0.4.
Prints the last accuracy on 4,000 clean digits, on which the prefix k* is chosen as well, of one
network after stage 1 and of both after stage 2, which start from warm-ups of their own.
"""

from __future__ import annotations

from benchmarks.experiment import parser, print_arms

SIGMAS = {"no nested dropout": "null", "sigma 50": "50", "sigma 25": "25", "sigma 10": "10"}
ONE = {"no nested dropout": "0.867", "sigma 50": "0.901 (k* 64)", "sigma 10": "0.828 (k* 118)"}
TWO = {"no nested dropout": "0.896 ± 0.011", "sigma 50": "0.911 ± 0.005", "sigma 10": "0.880"}
COMMON = [
    "--model.input_shape=[1,28,28]",
    "--model.optimizer.lr=0.05",
    "--data=IDXImages",
    "--data.val_size=56000",
    "--data.split_seed=SEED",
    "--data.batch_size=128",
    "--data.eval_batch_size=4000",
    "--data.label_noise=datamodules.LabelNoise",
    "--data.label_noise.rate=0.4",
    "--data.label_noise.seed=SEED",
    "--trainer.limit_val_batches=1",
    "--trainer.num_sanity_val_steps=0",
]


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=2)
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    data = [*COMMON, f"--data.root={arguments.data}/mnist"]
    one = [
        "--config=nested",
        *data,
        "--model.lr_scheduler=MultiStepLR",
        "--model.lr_scheduler.milestones=[480,640]",
        "--trainer.max_epochs=25",
        "--trainer.check_val_every_n_epoch=25",
    ]
    two = [
        "--config=coteaching",
        *data,
        "--model.warmup_epochs=25",
        "--trainer.max_epochs=35",
        "--trainer.check_val_every_n_epoch=5",
    ]
    for title, base, reference in (("one network", one, ONE), ("two networks", two, TWO)):
        print_arms(
            f"4,000 MNIST digits, 40 % symmetric label noise, {title}",
            {name: [*base, f"--model.sigma={sigma}"] for name, sigma in SIGMAS.items()},
            arguments.seeds,
            ["val/accuracy", "val/best_prefix"],
            reference,
        )


if __name__ == "__main__":
    main()
