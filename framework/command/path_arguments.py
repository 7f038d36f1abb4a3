"""Arguments that are paths: what each of them may read, and where each may write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.command.jsonargparse_internals import arguments_of
from framework.command.known_classes import named_classes


@dataclass(frozen=True)
class Written:
    """An argument that decides where files are written.

    Args:
        kind: Class that takes it.
        name: Name of the argument.
        container: What holds its value in a config.
        place: Dotted path in the config.
    """

    kind: type
    name: str
    container: dict[str, Any]
    place: str

    @property
    def value(self) -> Any:
        """Value in the config."""
        return self.container[self.name]


READS: dict[str, dict[str, str]] = {
    "ActivationFile": {
        "path": "a file of activations (`.npy`, `.safetensors`, `.pt`)",
        "target_path": "a file of activations",
    },
    "Activations": {
        "model": "a language model in a package, a folder or on the Hugging Face hub, without code",
        "text": "a file of text, or a folder of such files",
    },
    "BodyParts": {
        "root": "images and label files in a folder",
        "train": "annotation files in it, by name",
        "val": "annotation files in it, by name",
        "test": "annotation files in it, by name",
        "train_images": "the folders of images in it, by name",
        "val_images": "the folders of images in it, by name",
        "test_images": "the folders of images in it, by name",
    },
    "CIFAR": {"root": "the folder of CIFAR's batches, by a restricted reader"},
    "BPJDet": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "BPJDetNetwork": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "Classifier": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "CoTeaching": {
        "backbone": "weights of timm, where `pretrained` asks for them",
        "checkpoints": "checkpoints, as tensors and plain containers",
    },
    "ContrastiveLearner": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "DOTA": {
        "root": "images and label files in a folder",
        "labels": "the folders of labels in it, by name",
        "train": "a part of it, by name",
        "val": "a part of it, by name",
        "test": "a part of it, by name",
    },
    "DomainAdaptation": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "Faces": {
        "root": "images, or the records of some (`train.rec`), in a folder",
        "verification": "a verification set (`.bin`), or a list of images in its folder",
    },
    "FaceEmbedder": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "FeaturePairs": {
        "path": "a file of features, without pickled objects",
        "path2": "a file of features, without pickled objects",
        "labels": "a file of class numbers, without pickled objects",
    },
    "GGHLNetwork": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "GGHL": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "Graphs": {
        "path": "the files of a graph, those of Planetoid by a restricted reader",
        "labels": "the classes of a list of edges",
    },
    "HRSC2016": {
        "root": "images and label files in a folder",
        "train": "a list of names in it",
        "val": "a list of names in it",
        "test": "a list of names in it",
    },
    "HyperCleaning": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "IDXImages": {"root": "IDX files in a folder"},
    "ImageArrays": {"root": "`.npz` or `.npy` files, without pickled objects"},
    "ImageFolder": {"root": "images in a folder"},
    "ImageList": {"root": "images in a folder, and its list of them"},
    "ImageTars": {"root": "images in the tar files of a folder"},
    "ImageTiles": {"root": "images in a folder"},
    "InShop": {"root": "images in a folder, and its list of them"},
    "LabelNoise": {"path": "a file of labels, by a restricted reader"},
    "MatFeatures": {"path": "a MATLAB file"},
    "MetricLearner": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "NestedClassifier": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "Omniglot": {"root": "images in zip archives, or in folders"},
    "OneShotRuns": {"root": "images in zip archives, or in folders"},
    "OnlineProducts": {"root": "images in a folder, and its list of them"},
    "PrototypicalNetwork": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "RecordFile": {"path": "a RecordIO file (`.rec`)"},
    "RefinedLR": {"norms": "the gradient norms of a run, as numbers, in a file or a run folder"},
    "Tabular": {"source": "a table (`.csv`, `.txt`, `.parquet`), or a set of scikit-learn"},
    "TextWindows": {"path": "a file of text, or a folder of such files"},
    "TransductiveFewShot": {"backbone": "weights of timm, where `pretrained` asks for them"},
    "USPS": {"root": "the files of USPS in a folder"},
    "YOLOOBB": {
        "root": "images, label files and `data.yaml` in a folder",
        "labels": "the folders of labels in it, by name",
        "train": "a part of it, by name",
        "val": "a part of it, by name",
        "test": "a part of it, by name",
    },
}
"""What the arguments of our classes read, by class and name."""

FOLDERS: dict[str, dict[str, str]] = {
    "Activations": {"cache_dir": "the cache of activations"},
    "CSVLogger": {"save_dir": "metrics"},
    "DOTA": {"cache_dir": "the cache of tiles"},
    "DeepSpeedStrategy": {"nvme_path": "parameters that are swapped out"},
    "DetectionWriter": {"folder": "detections"},
    "EmbeddingWriter": {"path": "embeddings"},
    "ImageTiles": {"cache_dir": "the cache of tiles"},
    "LitLogger": {"root_dir": "metrics"},
    "MLFlowLogger": {
        "artifact_location": "artifacts",
        "save_dir": "metrics",
        "tracking_uri": "metrics",
    },
    "ModelCheckpoint": {"dirpath": "checkpoints"},
    "OnExceptionCheckpoint": {"dirpath": "a checkpoint"},
    "PeopleWriter": {"folder": "detections"},
    "PredictionWriter": {"path": "predictions"},
    "Profiler": {"dirpath": "measured times"},
    "RunLogger": {"folder": "`metrics.csv`"},
    "RunMLFlowLogger": {"folder": "MLflow's record of the run", "tracking_uri": "metrics"},
    "RunTensorBoardLogger": {"folder": "metrics"},
    "RunWandbLogger": {"folder": "W&B's record of the run"},
    "SampleState": {"directory": "a table of samples, removed as soon as it is mapped"},
    "SpikeDetection": {"exclude_batches_path": "numbers of batches"},
    "TensorBoardLogger": {"save_dir": "metrics"},
    "TrajectoryLoss": {"directory": "a table of samples, removed as soon as it is mapped"},
    "TrialReporter": {"folder": "the metric of a trial"},
    "WandbLogger": {"dir": "W&B's record of the run", "save_dir": "W&B's record of the run"},
    "YOLOOBB": {"cache_dir": "the cache of tiles"},
}
"""Folders and files that are written, by class (its subclasses are meant, too) and argument."""

NAMES: dict[str, tuple[str, ...]] = {
    "CSVLogger": ("name", "version"),
    "GradientNormRecorder": ("file_name",),
    "ModelCheckpoint": ("filename",),
    "OnExceptionCheckpoint": ("filename",),
    "Profiler": ("filename",),
    "TensorBoardLogger": ("name", "version", "sub_dir"),
    "WandbLogger": ("settings",),
}
"""Names of what is written in such a folder; a ``..`` in them would lead out of it."""

CACHES = ("index.json", "*/tiling.json")
"""Files by which a folder is known to be a cache that was written before."""


def written_arguments(config: Any) -> Iterator[Written]:
    """Yield every argument of a parsed config that decides where something is written.

    Args:
        config: Namespace of a command.
    """
    for one in named_classes(config):
        known = {name for group in (FOLDERS, NAMES) for name in _arguments(one.kind, group)}
        for part in one.parts:
            for name in sorted(known & set(part)):
                yield Written(one.kind, name, part, f"{one.place}.{name}")


def _arguments(kind: type, group: dict[str, Any]) -> set[str]:
    return {name for base in kind.__mro__ for name in group.get(base.__name__, ())}


def keep_below(config: Any, folder: Path, is_meant: Callable[[Written], bool]) -> list[str]:
    """Let a config write below a folder only, and return what was left out of it, in words.

    A place outside of it becomes the argument's default, or the folder; a cache that is there
    already is kept, as a person has made it.

    Args:
        config: Parsed config, which is changed.
        folder: Folder.
        is_meant: Function that says whether an argument is to be looked at.
    """
    left_out = []
    for written in written_arguments(config):
        value = written.value
        is_name = written.name in _arguments(written.kind, NAMES)
        stays = _leads_nowhere(value) if is_name else _is_below(value, folder)
        if value is None or stays or not is_meant(written):
            continue
        if written.name == "cache_dir" and _is_cache(value):
            continue
        left_out.append(f"{written.place} {str(value)[:80]!r}")
        default = _default(written)
        written.container[written.name] = default if is_name or default is None else str(folder)
    return left_out


def _is_below(value: Any, folder: Path) -> bool:
    text = os.path.expanduser(str(value))
    if "://" in text or "\0" in text:
        return False
    return Path(text).resolve().is_relative_to(folder.resolve())


def _leads_nowhere(value: Any) -> bool:
    if not isinstance(value, (str, int, Path)):
        return False
    text = str(value)
    parts = text.replace("\\", "/").split("/")
    return not (os.path.isabs(text) or ".." in parts or "://" in text or "\0" in text)


def _is_cache(value: Any) -> bool:
    return any(found.is_file() for name in CACHES for found in Path(str(value)).glob(name))


def _default(written: Written) -> Any:
    for argument in arguments_of(written.kind):
        if argument.name == written.name:
            return "" if argument.required else argument.default
    return None
