"""The 20 official one-shot runs of Omniglot."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch

from datamodules.image_data import ImageData, ImageOptions
from datamodules.image_datasets import ImageSet
from datamodules.omniglot import drawings
from framework.data.datasets import Batch
from framework.data.encoded_image import EncodedImage
from framework.data.facts import Facts
from framework.data.folders import sorted_names
from framework.data.zip_files import read_zip
from framework.utilities.checks import check_at_least

LABELS = "class_labels.txt"
_MOST_BYTES = 1 << 16
"""Bytes of a list of answers that are read."""


class OneShotRuns(ImageData):
    """A test set of 20 episodes, each with one drawing of 20 characters of an alphabet to learn.

    Read is ``all_runs.zip`` as it is published: for every run ``runNN/training``, the supports,
    ``runNN/test``, one query a class, and ``runNN/class_labels.txt``, which support is of the
    class of each query. Images are prepared as those of the training; the size is that of the
    training too, where no argument says otherwise.

    Batches are those of ``EpisodeSet`` of 20 ways, 1 shot and 1 query, ``index`` being the number
    of the run from 0; queries come in the order of the list. There is no training set.

    Paper: Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic
    program induction, Science 2015. The error of its baseline, the modified Hausdorff distance, is
    38.8 %.

    The remaining arguments are those of ``ImageData``.

    Args:
        root: The archive, or a folder with ``all_runs.zip`` in it or in ``one-shot-classification``
            in that.
        image_size: Side of an image; default that of the training, or 28.
        white_ink: Whether ink is 1 and paper 0, in place of the files' black ink on white paper.

    Raises:
        FileNotFoundError: There is no archive (at ``setup``).
        ValueError: A damaged archive or image, a list that names no images of its run, or runs of
            different sizes, by name (at ``setup``).

    Example:
        >>> OneShotRuns("data/omniglot", image_size=20).input_shape
        (1, 20, 20)
    """

    def __init__(
        self,
        root: str,
        image_size: int | None = None,
        white_ink: bool = True,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(1, image_size=image_size)
        self.root = Path(root)
        self.place = self.root
        self.image_size = image_size
        self.white_ink = white_ink
        self.input_shape = self._shape({})

    def _shape(self, trained: Facts) -> tuple[int, int, int]:
        size = self.image_size or trained.get("input_shape", (1, 28, 28))[1]
        return 1, size, size

    def _use_preparation(self) -> None:
        super()._use_preparation()
        self.input_shape = self._shape(self.trained)

    def setup(self, stage: str | None = None) -> None:
        """Read the runs once."""
        if self.test_set is None:
            self._use_preparation()
            self.test_set = self.predict_set = self._read()

    def _archive(self) -> Path:
        if self.root.is_file():
            return self.root
        for folder in (self.root, self.root / "one-shot-classification"):
            if (folder / "all_runs.zip").is_file():
                return folder / "all_runs.zip"
        raise FileNotFoundError(
            f"{self.root} is no archive of one-shot runs and holds no all_runs.zip, nor does its "
            "folder one-shot-classification: set data.root to where that is."
        )

    def _read(self) -> ImageSet:
        archive = self._archive()
        files = read_zip(archive, lambda name: name.endswith((".png", LABELS)))
        names = [name.removesuffix(f"/{LABELS}") for name in files if name.endswith(f"/{LABELS}")]
        if not names:
            raise ValueError(f"{archive} holds no runNN/{LABELS}.")
        runs = [self._run(archive, name, files) for name in sorted_names(names)]
        shapes = {tuple(run["support"].shape) for run in runs}
        if len(shapes) > 1 or len({len(run["label"]) for run in runs}) > 1:
            raise ValueError(f"The runs in {archive} have different numbers of images.")
        episodes = ImageSet(**{name: torch.stack([run[name] for run in runs]) for name in runs[0]})
        episodes.normalize = self.normalize
        return episodes

    def _run(self, archive: Path, name: str, files: dict[str, bytes]) -> Batch:
        """Return the fields of a run: its images as uint8, labels and where the supports are."""
        answers = files[f"{name}/{LABELS}"]
        supports = [path for path in files if path.startswith(f"{name}/training/")]
        queries = []
        label = []
        for number, line in enumerate(
            answers[:_MOST_BYTES].decode(errors="replace").split("\n"), 1
        ):
            # paths in the list begin with a folder of the run
            parts = [f"{name}/{path.partition('/')[2]}" for path in line.split()]
            if not parts:
                continue
            if len(parts) != 2 or parts[0] not in files or parts[1] not in supports:
                raise ValueError(
                    f"{archive}/{name}/{LABELS}, line {number}: expected an image of the run's "
                    f"test folder and one of its training folder, got {line.strip()[:80]!r}."
                )
            queries.append(parts[0])
            label.append(supports.index(parts[1]))
        if len(supports) < 2 or not queries:
            raise ValueError(
                f"{archive}: {name} has {len(supports)} classes and {len(queries)} queries."
            )
        pictures = [
            EncodedImage(f"{archive}/{path}", files[path]) for path in (*supports, *queries)
        ]
        ways = len(supports)
        return {
            "image": drawings(pictures, self.input_shape[1], self.white_ink),
            "label": torch.cat([torch.arange(ways), torch.tensor(label)]),
            "support": torch.arange(ways)[:, None],
        }
