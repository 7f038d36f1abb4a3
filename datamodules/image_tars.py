"""Images in tar files, such as the shards of WebDataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.image_datasets import ImageMembers
from datamodules.image_folder import ImageFolder
from framework.data.image_folders import LabeledImages
from framework.data.tar_files import Member
from framework.data.tar_images import find_tar_parts, find_tars, labeled_tar_images, tar_images


class ImageTars(ImageFolder):
    """Images in tar files (shards), read where they lie and decoded when they are needed.

    All tar files below ``root`` are read, and nothing is unpacked. Those with ``train``, ``val`` or
    ``test`` in their paths, such as ``train-000000.tar``, are parts, as the folders of
    ``ImageFolder`` are; without such names all are the training set. The class of an image is the
    text in ``KEY.cls``, or ``label`` in ``KEY.json``, beside it in its tar file (WebDataset); where
    there are none it is the first folder in its name, as in ``tar -cf train.tar -C photos/train .``

    Samples are in the order of classes, folders and names, so that batches are those of
    ``ImageFolder`` for the same files, however they are spread over tar files. The headers of all
    tar files are read at ``setup``, which takes about 15 s for a million images on a disk.

    All arguments are those of ``ImageFolder``; ``root`` is the folder of the tar files.

    Raises:
        FileNotFoundError: no such folder, no tar file or no image in it.
        ValueError: see ``ImageFolder``; or (at ``setup``), by name, a tar file that is damaged, cut
            or compressed, or holds links or devices, or an image without a label.

    Example:
        >>> import pathlib, tarfile, tempfile, PIL.Image
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> PIL.Image.new("RGB", (20, 30)).save(folder / "image.png")
        >>> (folder / "shards").mkdir()
        >>> with tarfile.open(folder / "shards" / "train.tar", "w") as file:
        ...     for name in ("cat/1.png", "dog/1.png"):
        ...         file.add(folder / "image.png", name)
        >>> data = ImageTars(str(folder / "shards"), image_size=16, batch_size=2, val_size=0)
        >>> data.setup("fit")
        >>> data.class_names, next(iter(data.train_dataloader()))["image"].shape
        (['cat', 'dog'], torch.Size([2, 3, 16, 16]))
    """

    kind_of_files = ImageMembers

    def parts(self, needs_train: bool = True) -> dict[str, tuple[Path, ...]]:
        """Return the tar files of each part; nothing where there are no parts."""
        return find_tar_parts(self.root, needs_train)

    def all_places(self) -> tuple[Path, ...]:
        """Return all tar files."""
        return tuple(find_tars(self.root))

    def images_in(self, places: Sequence[Path]) -> Sequence[Path | Member]:
        """Return all images in some tar files."""
        return tar_images(places)

    def labeled_in(self, places: Sequence[Path]) -> LabeledImages:
        """Return the images in some tar files with their classes."""
        return labeled_tar_images(places, self.root)
