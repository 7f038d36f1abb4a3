"""Verification of photographs of persons who were not trained, by the head of the training.

    python -m benchmarks.face_orl --data FOLDER [--seeds 3]

FOLDER holds ``orl_faces``, 40 persons of 10 photographs. ``configs/face_orl.yaml`` is trained
on 30 persons; each seed draws another 30 and other weights. Of the 10 others, whom nothing was
chosen by, ten-fold accuracy is that of 900 pairs drawn in equal parts, and the true
acceptance rate that of all 4,950 pairs, both after the last epoch.
"""

from __future__ import annotations

from benchmarks.experiment import parser, print_arms

UNPG = ["--model.negatives=UNPG"]
ARC = ["--model.head=ArcFaceHead", "--model.head.scale=16", "--model.head.margin=0.2"]
ARMS = {
    "CosFace": [],
    "CosFace, UNPG": UNPG,
    "ArcFace": ARC,
    "ArcFace, UNPG": [*ARC, *UNPG],
    "SFace": [
        "--model.head=SFaceHead",
        "--model.head.scale=32",
        "--model.head.pull_angle=0.9",
    ],
    "NormFace": ["--model.head=NormFaceHead", "--model.head.scale=16"],
}
METRICS = ("held_out/acc", "tar@far=1e-2", "tar@far=1e-3", "recall@1")


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=3)
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    base = [
        "--config=configs/face_orl.yaml",
        f"--data.root={arguments.data}/orl_faces",
        "--data.split_seed=SEED",
        "--data.val_identities=10",
        "--data.test_identities=0",
    ]
    print_arms(
        "10 persons of ORL, trained on 30 others",
        {name: [*base, *arm] for name, arm in ARMS.items()},
        arguments.seeds,
        [f"val/{name}" for name in METRICS],
    )


if __name__ == "__main__":
    main()
