"""Images in tar files are served as those in folders are."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import trimtab
from datamodules import ImageFolder, ImageTars
from tests.datamodules.test_image_folder import COLORS, write_classes
from tests.helpers.configs import arguments
from tests.hostile.image_readers import IMAGES, image

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def pack(path: Path, content: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, value in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(value)
            file.addfile(info, io.BytesIO(value))


def pack_folder(folder: Path, target: str, shards: int = 1) -> None:
    """Write the files of a folder in turn into the tar files ``target % number``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number in range(shards):
        content = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in files[number::shards]
        }
        pack(folder.parent / (target % number), content)


def ready(root: Path, stage: str = "fit", kind: type = ImageTars, **options):
    data = kind(str(root), **{"image_size": 6, "val_size": 3, **options})
    data.setup(stage)
    return data


def png(name: str = "red") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (8, 8), COLORS[name]).save(target, "PNG")
    return target.getvalue()


def test_samples_are_those_of_the_folder_however_they_are_spread(tmp_path) -> None:
    for part in ("train", "test"):
        write_classes(tmp_path / "in" / part)
        pack_folder(tmp_path / "in" / part, f"../shards/{part}-%d.tar", shards=3)
    options = {"stratify": True}
    folder = ready(tmp_path / "in", kind=ImageFolder, **options)
    tars = ready(tmp_path / "shards", **options)
    assert tars.class_names == folder.class_names == [*COLORS]
    for name in ("train", "val", "test"):
        for one, other in zip(
            getattr(folder, f"{name}_dataloader")(),
            getattr(tars, f"{name}_dataloader")(),
            strict=True,
        ):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)
    assert tars.test_set.names[:2] == ["test-0.tar/blue/0.png", "test-1.tar/blue/1.png"]


@pytest.mark.parametrize(("_", "kind", "mode"), IMAGES)
def test_every_kind_of_image_is_decoded_alike(tmp_path, _, kind, mode) -> None:
    content = image(kind, mode)
    path = tmp_path / "in" / "a" / f"1.{kind.lower()}"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    # a second file behind it, as a library might read on
    pack(tmp_path / "tar" / "a.tar", {f"a/1.{kind.lower()}": content, "a/2.png": png()})
    for strict in (True, False):
        options = {"val_size": 0, "channels": 3, "strict": strict}
        one = ready(tmp_path / "in", kind=ImageFolder, **options)
        other = ready(tmp_path / "tar", **options)
        assert torch.equal(one.train_set[0]["image"], other.train_set[0]["image"])


def test_a_compressed_tiff_is_read_within_its_member(tmp_path) -> None:
    target = io.BytesIO()
    Image.linear_gradient("L").save(target, "TIFF", compression="tiff_lzw")
    (tmp_path / "1.tiff").write_bytes(target.getvalue())
    pack(tmp_path / "tar" / "a.tar", {"a/0.png": png(), "a/1.tiff": target.getvalue()})
    data = ready(tmp_path / "tar", image_size=256, channels=1, val_size=0)
    expected = data.as_batch(str(tmp_path / "1.tiff"))["image"][0]
    assert torch.equal(data.train_set[1]["image"], expected)


@pytest.mark.parametrize("kind", ["cls", "json", "CLS", "JSON"])
def test_labels_beside_the_images(tmp_path, kind) -> None:
    labels = {"s/10": 10, "s/2": 2, "s/x.y": "dog"}

    def label(value: object) -> bytes:
        return (
            json.dumps({"label": value, "more": 1}).encode()
            if kind.lower() == "json"
            else f"{value}\n".encode()
        )

    content: dict[str, bytes] = {}
    for key, value in labels.items():
        content |= {f"{key}.png": png(), f"{key.removesuffix('.y')}.{kind}": label(value)}
    if kind.lower() == "cls":
        content["s/2.mask.png"] = png("blue")
        content["s/x.png"] = content.pop("s/x.y.png")
    pack(tmp_path / "0.tar", content)
    if kind.lower() == "cls":
        with pytest.warns(
            UserWarning, match=r"further images of a sample, such as KEY\.mask\.png: 1"
        ):
            data = ready(tmp_path, val_size=0)
    else:
        data = ready(tmp_path, val_size=0)
    assert data.class_names == ["2", "10", "dog"]
    (batch,) = data.train_dataloader()
    assert batch["label"].tolist() == batch["index"].tolist()
    assert batch["image"][:, 0].min() == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1.png": png(), "1.cls": b"3", "2.png": png()}, r"0\.tar/2 has no label: .* 2\.cls"),
        ({"1.png": png(), "1.cls": b""}, r"0\.tar/1\.cls: '' is no label"),
        ({"1.png": png(), "1.cls": b"a\nb"}, r"0\.tar/1\.cls: .* is no label"),
        ({"1.png": png(), "1.cls": b"a" * 2000}, r"0\.tar/1\.cls: .* is no label"),
        ({"1.png": png(), "1.json": b'{"label": [1]}'}, r"0\.tar/1\.json: '\[1\]' is no label"),
        ({"1.png": png(), "1.json": b"{"}, r"0\.tar/1\.json is no JSON"),
        ({"1.png": png(), "1.json": b"{}"}, "No image in the tar files in .* has a label"),
        ({"train/a/1.png": png(), "val/a/1.png": png()}, "put each part into tar files of its own"),
        ({"a/1.png": b"no image"}, r"1 of the 1 images .* cannot be decoded.*0\.tar/a/1\.png"),
        ({"a/1.txt": b"text"}, r"hold no image \(they have files ending in \.txt: 1\)"),
    ],
)
def test_bad_content_is_refused_by_name(tmp_path, content, message) -> None:
    pack(tmp_path / "0.tar", content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        ready(tmp_path)
    assert "\n" not in str(error.value)


def test_parts_by_the_words_in_names(tmp_path) -> None:
    for name in ("in-train-0000.tar", "in-train-0001.tar", "Validation/0.tar", "in_test.tar"):
        pack(tmp_path / name, {"a/1.png": png(), "b/1.png": png()})
    data = ready(tmp_path)
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [4, 2, 2]
    pack(tmp_path / "other.tar", {"a/1.png": png()})
    with pytest.warns(UserWarning, match=r"1 tar files .* name no part, .*: other\.tar"):
        ready(tmp_path)
    pack(tmp_path / "train_val.tar", {"a/1.png": png()})
    with pytest.raises(ValueError, match="names the parts train and val"):
        ready(tmp_path)


def test_what_is_no_folder_of_tar_files(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*gone"):
        ready(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="holds no tar file"):
        ready(tmp_path)
    pack(tmp_path / "test.tar", {"a/1.png": png()})
    with pytest.raises(FileNotFoundError, match="tar files of test, but none with train"):
        ready(tmp_path)


def test_a_tar_file_that_changes_during_a_run_is_said(tmp_path) -> None:
    pack(tmp_path / "0.tar", {"a/1.png": png(), "a/2.png": png()})
    data = ready(tmp_path, val_size=0)
    os.utime(tmp_path / "0.tar", ns=(1, 1))
    with pytest.raises(ValueError, match=r"^.*0\.tar/a/1\.png: 0\.tar has changed since"):
        data.train_set[0]


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_classifier_is_trained_to_the_same_bits_and_predicts_by_name(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "photos", count=6)
    pack_folder(tmp_path / "photos", "shards/%d.tar", shards=2)
    parameters = []
    for kind, root in (("ImageFolder", "photos"), ("ImageTars", "shards")):
        data = [
            f"--data={kind}",
            f"--data.root={root}",
            "--data.batch_size=4",
            "--data.image_size=8",
            "--data.stratify=true",
            "--data.val_size=3",
        ]
        shape = ["--model.input_shape=null", "--model.num_classes=null"]
        fit = ["--trainer.max_epochs=2", f"--run_folder={kind}", *QUIET]
        trimtab.main(["fit", *arguments("classifier"), *data, *shape, *fit])
        parameters.append(torch.load(f"{kind}/checkpoints/last.ckpt")["state_dict"])
    one, other = parameters
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    trimtab.main(
        [
            "predict",
            "--ckpt_path=ImageTars/checkpoints/last.ckpt",
            "--data=ImageTars",
            "--data.root=shards",
            *QUIET,
        ]
    )
    assert "0.tar/blue/0.png" in Path("ImageTars/predictions.csv").read_text()
