"""Images in tar files: which member is an image, of which class, and which tar file is a part."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from framework.data.folders import find_files, is_hidden, is_text, sorted_names
from framework.data.image_folders import ENDINGS, PARTS, LabeledImages
from framework.data.tar_files import Member, members_of
from framework.utilities.json_files import BYTES_PER_CHARACTER, parse_json
from framework.utilities.limits import check_size

_THREADS = 8
"""Tar files whose headers are read at once, as a store across a network answers slowly."""
_LONGEST = 1 << 10
"""Bytes of the longest label."""


def find_tars(root: str | Path) -> list[Path]:
    """Return all tar files below a folder, in the order of their paths; see ``find_files``.

    Raises:
        FileNotFoundError: no such folder, or no tar file below it.
    """
    return find_files(root, (".tar",), "tar file")


def find_tar_parts(root: Path, needs_train: bool = True) -> dict[str, tuple[Path, ...]]:
    """Return the tar files of ``train``, ``val`` and ``test`` by a word in their paths.

    The word is one of ``PARTS``, in the name of the file or of a folder that it lies in, such as
    ``imagenet-train-000000.tar``. There are no parts where no path has such a word.

    Args:
        root: Folder that is looked into.
        needs_train: Whether parts without one to train on are refused.

    Raises:
        FileNotFoundError: no tar file, or parts of which none is to train on.
        ValueError: a path that names two parts.
    """
    found: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in find_tars(root):
        place = str(path.relative_to(root).with_suffix(""))
        words = set(re.findall("[a-z]+", place.lower()))
        named = [part for part, names in PARTS.items() if words & set(names)]
        if len(named) > 1:
            raise ValueError(f"{path} names the parts {' and '.join(named)}: rename it.")
        (found.setdefault(named[0], []) if named else others).append(path)
    if not found:
        return {}
    if "train" not in found and needs_train:
        raise FileNotFoundError(
            f"{root} has tar files of {' and '.join(found)}, but none with train in its name."
        )
    if others:
        listed = ", ".join(str(path.relative_to(root)) for path in others[:5])
        rank_zero_warn(
            f"{len(others):,} tar files in {root} name no part, and are not read: {listed}."
        )
    return {part: tuple(found[part]) for part in PARTS if part in found}


def tar_images(tars: Sequence[Path]) -> list[Member]:
    """Return all images in tar files, in the order in which they lie there.

    Raises:
        FileNotFoundError: there is none.
        ValueError: see ``members_of``.
    """
    images, _ = _images_and_others(tars)
    return images


def labeled_tar_images(tars: Sequence[Path], root: Path) -> LabeledImages:
    """Return the images in tar files with their classes.

    The class of ``KEY.png`` is the text in the member ``KEY.cls``, or ``label`` in ``KEY.json``, of
    the same tar file, as WebDataset writes them; KEY ends at the first dot of a name. Where no
    member has such a label, the class is the first folder in the image's own name. The order is by
    class, folder, name and tar file: it does not depend on how images are spread over tar files.

    Args:
        tars: Tar files of one part of the data.
        root: Folder that they lie in.

    Raises:
        FileNotFoundError: there is no image, or none of a class.
        ValueError: an image without a label beside images that have one, or a label that is none;
            or see ``members_of``.
    """
    images, others = _images_and_others(tars)
    labels = _labels(others)
    class_of: dict[Path | Member, str | None] = {}
    for image in sorted(images, key=lambda image: (*os.path.split(image.name), image.tar)):
        folder, inside, _ = image.name.partition("/")
        class_of[image] = labels[_key(image)] if labels else folder if inside else None
    names = sorted_names(name for name in class_of.values() if name is not None)
    if not names:
        raise FileNotFoundError(
            f"No image in the tar files in {root} has a label beside it (KEY.cls, KEY.json), or "
            "lies in the folder of its class."
        )
    if not labels and any(name.lower() in PARTS["train"] for name in names):
        raise ValueError(
            f"{tars[0]} has the folder of a part where those of classes are expected "
            f"({', '.join(names[:5])}): put each part into tar files of its own, such as train.tar."
        )
    return LabeledImages(root, names, class_of)


def _images_and_others(tars: Sequence[Path]) -> tuple[list[Member], list[Member]]:
    """Return the images in tar files, and the members that may be their labels."""
    with ThreadPoolExecutor(_THREADS) as pool:
        members = [member for found in pool.map(members_of, tars) for member in found]
    images: list[Member] = []
    others: list[Member] = []
    left_out: Counter[str] = Counter()
    for member in members:
        ending = _ending(member)
        if any(map(is_hidden, member.name.split("/"))):
            left_out["hidden files and folders"] += 1
        elif ending in ENDINGS:
            images.append(member)
        elif ending in (".cls", ".json"):
            others.append(member)
        else:
            left_out[f"files ending in {ending}" if ending else "files without an ending"] += 1
    if any(_ending(member) == ".cls" for member in others):
        # a sample of several images: the one that is called by the key alone
        simple = [image for image in images if os.path.basename(image.name).count(".") == 1]
        left_out["further images of a sample, such as KEY.mask.png"] = len(images) - len(simple)
        images = simple
    said = ", ".join(f"{kind}: {number:,}" for kind, number in left_out.most_common() if number)
    place = os.path.dirname(tars[0])
    if not images:
        found = f" (they have {said})" if said else ""
        raise FileNotFoundError(f"The tar files in {place} hold no image{found}.")
    if said:
        rank_zero_warn(f"Not all that lies in the tar files in {place} is read ({said}).")
    return images, others


class _Labels(defaultdict[tuple[str, str], str]):
    """Text of the label of each key of a tar file, which raises where one is missing."""

    def __missing__(self, key: tuple[str, str]) -> str:
        raise ValueError(f"{'/'.join(key)} has no label: there is no {key[1]}.cls in its tar file.")


def _labels(members: Sequence[Member]) -> _Labels:
    labels = _Labels()
    for member in members:
        if _ending(member) == ".cls":
            with member.open() as file:
                labels[_key(member)] = _label(
                    file.read(_LONGEST + 1).decode(errors="replace"), member
                )
    for member in members:
        if _ending(member) == ".json" and _key(member) not in labels:
            check_size(str(member), BYTES_PER_CHARACTER * member.size, "its values")
            with member.open() as file:
                values = parse_json(file.read(), str(member))
            if isinstance(values, dict) and "label" in values:
                labels[_key(member)] = _label(values["label"], member)
    return labels


def _label(value: object, member: Member) -> str:
    text = value.strip() if isinstance(value, str) else str(value)
    if type(value) not in (str, int) or not (0 < len(text) <= _LONGEST and is_text(text)):
        raise ValueError(f"{member}: {text[:40]!r} is no label: a number or a name is expected.")
    return text


def _ending(member: Member) -> str:
    return os.path.splitext(member.name)[1].lower()


def _key(member: Member) -> tuple[str, str]:
    folder, name = os.path.split(member.name)
    return member.tar, os.path.join(folder, name.partition(".")[0])
