"""Readers of the data of few-shot learning and of retrieval."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from tests.helpers.omniglot import drawing
from tests.hostile.container_mutations import change_zip
from tests.hostile.image_readers import image
from tests.hostile.mutations import BYTES
from tests.hostile.registry import TEXTS, packed, reader


def archive(content: dict[str, bytes]) -> bytes:
    """Return files as a zip archive."""

    def write(target: io.BytesIO) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
            for name, value in content.items():
                file.writestr(name, value)

    return packed(write)


@reader(
    "omniglot",
    lambda: {
        "images_background.zip": archive(
            {f"background/Greek/character0{k}/1.png": drawing(k, 0) for k in (1, 2)}
        )
    },
    [
        "datamodules.omniglot:_read",
        "framework.data.image_files:_file",
        "framework.data.zip_files:read_zip",
        "framework.data.zip_files:_entries",
        "framework.data.zip_files:_content",
    ],
    (*[change_zip(BYTES)] * 3, *BYTES),
)
def _(folder: Path) -> Any:
    from datamodules import Omniglot

    data = Omniglot(str(folder), image_size=16, val_alphabets=0, test_alphabets=0)
    data.setup("fit")
    return data.train_set[0]


@reader(
    "one-shot-runs",
    lambda: {
        "all_runs.zip": archive(
            {
                **{f"run01/training/class0{k}.png": drawing(k, 0) for k in (1, 2)},
                "run01/test/item01.png": drawing(1, 1),
                "run01/class_labels.txt": b"run01/test/item01.png run01/training/class02.png\n",
            }
        )
    },
    ["datamodules.one_shot_runs:OneShotRuns._read", "framework.data.zip_files:read_zip"],
    (*[change_zip((*TEXTS, *BYTES))] * 3, *BYTES),
)
def _(folder: Path) -> Any:
    from datamodules import OneShotRuns

    data = OneShotRuns(str(folder), image_size=16)
    data.setup("test")
    return data.test_set[0]


@reader(
    "online-products",
    lambda: {
        "Ebay_train.txt": b"image_id class_id super_class_id path\n1 1 1 a/1.JPG\n2 2 1 a/2.JPG\n",
        "Ebay_test.txt": b"image_id class_id super_class_id path\n3 3 1 a/1.JPG\n",
        "a/1.JPG": image("JPEG"),
        "a/2.JPG": image("JPEG"),
    },
    ["datamodules.retrieval_lists:OnlineProducts._listed"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from datamodules import OnlineProducts

    data = OnlineProducts(str(folder), image_size=16, resize=None)
    data.setup("fit")
    return data.train_set[0]


@reader(
    "in-shop",
    lambda: {
        "list_eval_partition.txt": (
            b"3\nimage_name item_id evaluation_status\na/1.jpg id_1 train\na/2.jpg id_2 query\n"
            b"a/3.jpg id_2 gallery\n"
        ),
        **{f"a/{k}.jpg": image("JPEG") for k in (1, 2, 3)},
    },
    ["datamodules.retrieval_lists:InShop._listed"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from datamodules import InShop

    data = InShop(str(folder), image_size=16, resize=None)
    data.setup("fit")
    return data.test_set[0]
