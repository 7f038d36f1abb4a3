"""Readers of archives of tensors and of pickles."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile.container_mutations import (
    PICKLE,
)
from tests.hostile.mutations import BYTES, TEXT, change_json
from tests.hostile.registry import (
    JSON,
    LABELS,
    NUMBERS,
    OLD_TENSORS,
    SAFETENSORS,
    TENSORS,
    packed,
    reader,
    saved,
)

# ---- archives of tensors -------------------------------------------------------------------------

CHECKPOINT = {
    "state_dict": {"weight": torch.arange(12.0).view(3, 4), "bias": torch.zeros(3).double()},
    "epoch": 1,
    "global_step": 6,
    "pytorch-lightning_version": "2.6.0",
    "callbacks": {"RunCheckpoint{'filename': 'best'}": {"best_model_path": "checkpoints/a.ckpt"}},
    "optimizer_states": [
        {"state": {0: {"step": torch.tensor(6.0)}}, "param_groups": [{"lr": 0.1}]}
    ],
    "rng": [{"torch": torch.get_rng_state(), "python": [3, torch.arange(9), None]}],
    "data_facts": {"class_names": ["a", "b"], "input_mean": torch.ones(4)},
    "model_classes": ["modules.regressor.module.Regressor"],
}


def _checkpoint(old: bool) -> Callable[[], dict[str, bytes]]:
    return lambda: {"last.ckpt": saved(CHECKPOINT, old)}


@reader(
    "checkpoint",
    _checkpoint(old=False),
    [
        "framework.runs.checkpoint_io:AtomicCheckpointIO.load_checkpoint",
        "framework.utilities.stored_zip:StoredZip._read_entries",
        "framework.utilities.tensor_archive:load_archive",
        "framework.utilities.tensor_archive:_Archive.__init__",
    ],
    TENSORS,
)
def _(folder: Path) -> Any:
    from framework.runs.checkpoint_io import AtomicCheckpointIO

    return AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")


@reader(
    "digest", _checkpoint(old=False), ["framework.utilities.tensor_archive:archive_digest"], TENSORS
)
def _(folder: Path) -> Any:
    from framework.utilities.tensor_archive import archive_digest

    return archive_digest(folder / "last.ckpt")


@reader(
    "checkpoint-old",
    _checkpoint(old=True),
    ["framework.runs.checkpoint_io:AtomicCheckpointIO.load_checkpoint"],
    OLD_TENSORS,
)
def _(folder: Path) -> Any:
    from framework.runs.checkpoint_io import AtomicCheckpointIO

    return AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")


@reader("facts", _checkpoint(old=False), ["framework.data.facts:read_facts"], TENSORS)
def _(folder: Path) -> Any:
    from framework.data.facts import read_facts

    return read_facts(folder / "last.ckpt")


@reader(
    "class of a checkpoint",
    _checkpoint(old=False),
    ["framework.runs.model_class:read_model_classes"],
    TENSORS,
)
def _(folder: Path) -> Any:
    from framework.runs.model_class import read_model_classes

    return read_model_classes(folder / "last.ckpt")


@reader(
    "shards",
    lambda: {
        f"t-{rank}-of-2.pt": saved({"num_samples": 9, "shards": 2, "rows": torch.rand(5 - rank, 3)})
        for rank in range(2)
    },
    ["framework.distributed.sample_state:SampleState._read_shard"],
    TENSORS,
)
def _(folder: Path) -> Any:
    from framework.distributed.sample_state import SampleState

    SampleState(9, (3,), layout="local", shards=2).load_shards(folder, "t")


@reader(
    "labels-pt",
    lambda: {"labels.pt": saved({"clean_label": LABELS, "worse_label": LABELS})},
    ["datamodules.labels:_read_columns"],
    TENSORS,
)
def _(folder: Path) -> Any:
    from datamodules.labels import read_labels

    return read_labels(folder / "labels.pt", "worse_label")


def _activations(name: str, key: str | None = None) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from datamodules.activations.file import read_activations

        return read_activations(folder / name, key)

    return read


reader(
    "activations-pt",
    lambda: {"a.pt": saved({"a": torch.from_numpy(NUMBERS), "b": [1, "x"]})},
    ["datamodules.activations.file:_read_pt"],
    TENSORS,
)(_activations("a.pt"))
reader(
    "activations-pt-old",
    lambda: {"a.pt": saved(torch.from_numpy(NUMBERS), old=True)},
    ["datamodules.activations.file:_read_pt"],
    OLD_TENSORS,
)(_activations("a.pt"))
reader(
    "activations-npy",
    lambda: {"a.npy": packed(lambda file: np.save(file, NUMBERS))},
    ["datamodules.activations.file:_read_npy", "datamodules.array_files:map_npy"],
    (*TEXT, *BYTES, *BYTES),
)(_activations("a.npy"))


def _safetensors(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save(tensors)


reader(
    "activations-safetensors",
    lambda: {"a.safetensors": _safetensors({"a": torch.from_numpy(NUMBERS)})},
    [
        "datamodules.activations.file:_read_safetensors",
        "framework.utilities.tensor_archive:load_safetensors",
    ],
    SAFETENSORS,
)(_activations("a.safetensors"))


def _weights(features: int = 6, width: int = 4) -> dict[str, torch.Tensor]:
    return {
        "W_enc": torch.ones(width, features),
        "W_dec": torch.ones(features, width),
        "b_enc": torch.zeros(features),
        "b_dec": torch.zeros(width),
    }


@reader(
    "saelens",
    lambda: {
        "cfg.json": json.dumps({"architecture": "topk", "k": 2}).encode(),
        "sae_weights.safetensors": _safetensors(_weights()),
    },
    ["modules.sae.loading:_from_saelens", "modules.sae.loading:_read_json"],
    (*JSON, *SAFETENSORS),
)
@reader(
    "dictionary_learning",
    lambda: {
        "config.json": json.dumps({"trainer": {"dict_class": "AutoEncoderTopK"}}).encode(),
        "ae.pt": saved(
            {
                "encoder.weight": torch.ones(6, 4),
                "encoder.bias": torch.zeros(6),
                "decoder.weight": torch.ones(4, 6),
                "b_dec": torch.zeros(4),
                "k": torch.tensor(2),
            }
        ),
    },
    ["modules.sae.loading:_from_dictionary_learning", "modules.sae.loading:_read_json"],
    (*[change_json] * 4, *TENSORS),
)
def _(folder: Path) -> Any:
    from modules.sae import load_autoencoder

    return load_autoencoder(folder)


def _tiny_iresnet() -> Any:
    from framework.embedding.backbones import IResNet

    return IResNet((1, 1, 1, 1), (2, 2, 2, 2), 3, (1, 8, 8))


@reader(
    "insightface",
    lambda: {"backbone.pth": saved(_tiny_iresnet().state_dict())},
    ["framework.embedding.backbones.load_insightface:load_insightface"],
    TENSORS,
)
def _(folder: Path) -> Any:
    from framework.embedding.backbones import load_insightface

    load_insightface(_tiny_iresnet(), folder / "backbone.pth")


# ---- pickles -------------------------------------------------------------------------------------


def _cifar(part: int) -> bytes:
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [part % 10, 1], "batch_label": "x"}
    return pickle.dumps(batch, protocol=2)


@reader(
    "cifar",
    lambda: {
        **{f"data_batch_{part}": _cifar(part) for part in range(1, 6)},
        "test_batch": _cifar(0),
        "batches.meta": pickle.dumps({"label_names": [f"c{k}" for k in range(10)]}, protocol=4),
    },
    [
        "datamodules.cifar:CIFAR._read_batch",
        "datamodules.cifar:CIFAR._read_names",
        "framework.data.restricted_pickle:load_pickle",
        "framework.utilities.array_pickle:_frombuffer",
    ],
    PICKLE,
)
def _(folder: Path) -> Any:
    from datamodules import CIFAR

    return CIFAR(str(folder)).read()
