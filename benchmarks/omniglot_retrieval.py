"""Retrieval of characters that were never trained, with and without mixed examples.

    python -m benchmarks.omniglot_retrieval --data FOLDER [--seeds 3]

FOLDER holds ``omniglot/images_background_small1.zip``. ``configs/metric_omniglot.yaml`` is trained
on three of its alphabets, whose characters are also turned, and scored on the Greek
one and its turns after the last epoch.
"""

from __future__ import annotations

from benchmarks.experiment import parser, print_arms

PLAIN = ["--model.mixing=null"]
FEATURE = ["--model.mixing.mode=feature"]
CONTRASTIVE = ["--model.criterion=ContrastiveLoss"]
HEAD = ["--model.criterion=null", *PLAIN, "--model.head=CosFaceHead", "--model.head.scale=16"]
ARMS = {
    "multi-similarity": PLAIN,
    "multi-similarity, Metrix on features": FEATURE,
    "multi-similarity, Metrix on embeddings": [],
    "contrastive": [*CONTRASTIVE, *PLAIN],
    "contrastive, Metrix on features": [*CONTRASTIVE, *FEATURE],
    "CosFace, margin 0.2": [*HEAD, "--model.head.margin=0.2"],
}
METRICS = ("recall@1", "map@r", "tar@far=1e-2")


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=3)
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    base = [
        "--config=configs/metric_omniglot.yaml",
        f"--data.data.root={arguments.data}/omniglot",
        "--data.data.val_alphabets=[Greek]",
        "--data.data.test_alphabets=[Balinese]",
    ]
    print_arms(
        "Characters of Omniglot's Greek alphabet, trained on three others",
        {name: [*base, *arm] for name, arm in ARMS.items()},
        arguments.seeds,
        [f"val/{name}" for name in METRICS],
    )


if __name__ == "__main__":
    main()
