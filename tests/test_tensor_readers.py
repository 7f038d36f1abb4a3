"""Every reader of a file of tensors sees damage, and says of code only that it was not loaded."""

from __future__ import annotations

import io
import re
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

import trimtab
from datamodules.activations.file import read_activations
from datamodules.labels import read_labels
from framework.data.facts import KEY, read_facts
from framework.distributed.sample_state import SampleState
from framework.embedding.backbones import IResNet, load_insightface
from framework.runs.checkpoint_io import AtomicCheckpointIO, use_atomic_checkpoints
from framework.utilities.tensor_archive import load_archive, load_safetensors
from modules.coteaching.stage_one import load_stage_one
from modules.nested.network import NestedNetwork
from modules.sae.loading import load_autoencoder
from tests.helpers.tiny import TinyData, TinyModule

ROOT = Path(__file__).parents[1]
SENTINEL = torch.full((64,), 1.2345)


def trainer(path: Path, **options: Any) -> Trainer:
    return Trainer(
        **options,
        default_root_dir=path.parent,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def load_run(path: Path) -> Any:
    (path.parent / "config.yaml").write_text("model:\n  class_path: TinyModule\n")
    return trimtab.load(path)


def load_shard(path: Path) -> None:
    state = SampleState(64, layout="exchange")
    state.load_shards(path.parent, path.name.split("-")[0])


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "load_archive": ("a.pt", load_archive),
    "mapped": ("a.pt", lambda path: load_archive(path, mmap=True)),
    "checkpoint": ("a.ckpt", AtomicCheckpointIO().load_checkpoint),
    "trimtab.load": ("a.ckpt", load_run),
    "fit": ("a.ckpt", lambda p: trainer(p).fit(TinyModule(), TinyData(), ckpt_path=p)),
    "test": ("a.ckpt", lambda p: trainer(p).test(TinyModule(), TinyData(), ckpt_path=p)),
    "asynchronous": (
        "a.ckpt",
        lambda path: trainer(path, plugins=[AsyncCheckpointIO(AsyncCheckpointIO())]).test(
            TinyModule(), TinyData(), ckpt_path=path
        ),
    ),
    "module": ("a.ckpt", TinyModule.load_from_checkpoint),
    "module, unsafe": (
        "a.ckpt",
        lambda path: TinyModule.load_from_checkpoint(path, weights_only=False),
    ),
    "module, open file": (
        "a.ckpt",
        lambda p: TinyModule.load_from_checkpoint(io.BytesIO(p.read_bytes())),
    ),
    "datamodule": ("a.ckpt", TinyData.load_from_checkpoint),
    "stage one": (
        "a.ckpt",
        lambda path: load_stage_one(NestedNetwork.__new__(NestedNetwork), path),
    ),
    "shard": ("SAF-0-of-1.pt", load_shard),
    "activations": ("a.pt", read_activations),
    "autoencoder": ("ae.pt", lambda path: load_autoencoder(path.parent)),
    "labels": ("a.pt", lambda path: read_labels(path, "label")),
    "insightface": ("a.pt", lambda path: load_insightface(IResNet.__new__(IResNet), path)),
}


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("open('executed', 'w')",)


@pytest.fixture(params=list(READERS))
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    name, read = READERS[request.param]
    return tmp_path / name, read


def refusal(path: Path, read: Callable[[Path], Any]) -> str:
    with (
        warnings.catch_warnings(record=True) as warned,
        pytest.raises(ValueError, match=r"^[^\n]+$") as caught,
    ):
        read(path)
    said = str(caught.value)
    for text in (said, *(str(warning.message) for warning in warned)):
        assert "weights_only" not in text
        assert "safe_globals" not in text
    return said


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_not_run_and_torch_gives_no_advice(case, legacy):
    path, read = case
    content = {"state_dict": {"w": SENTINEL}, "evil": Evil()}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    said = refusal(path, read)
    assert "holds more than tensors and plain containers (it names " in said
    assert "exec) and was not loaded." in said
    assert not Path("executed").exists()
    assert read_facts(path) == {}


def test_a_flipped_bit_is_seen(case):
    path, read = case
    content = {"state_dict": {"w": SENTINEL}, "label": SENTINEL, KEY: {"target_mean": SENTINEL}}
    torch.save(content, path)
    assert torch.equal(read_facts(path)["target_mean"], SENTINEL)
    stored = bytearray(path.read_bytes())
    place = stored.index(struct.pack("<64f", *SENTINEL.tolist()))
    stored[place + 7] ^= 0x40
    path.write_bytes(stored)
    said = refusal(path, read)
    assert re.search(
        r"was not loaded: the checksum of its entry [\w-]+/data/0 does not match", said
    )
    assert read_facts(path) == {}


@pytest.mark.parametrize("kind", [TinyModule, TinyData])
def test_load_from_checkpoint(tmp_path, kind):
    path = tmp_path / "a.ckpt"
    saved: dict[str, Any] = {"pytorch-lightning_version": "2.6.0"}
    saved["state_dict"] = state = TinyModule().state_dict()
    torch.save(saved, path)
    with path.open("rb") as file:
        loaded = [kind.load_from_checkpoint(path), kind.load_from_checkpoint(file)]
    assert {type(one) for one in loaded} == {kind}
    if kind is TinyModule:
        assert all(torch.equal(one.network.bias, state["network.bias"]) for one in loaded)
    torch.save({**saved, "note": np.arange(3)}, path)
    assert load_archive(path)["note"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="holds NumPy arrays, which Lightning does not load"):
        kind.load_from_checkpoint(path)


@pytest.mark.parametrize("name", [None, 3])
def test_weights_have_names(tmp_path, name):
    path = tmp_path / "a.ckpt"
    state = {**TinyModule().state_dict(), name: torch.zeros(1)}
    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": state}, path)
    with pytest.raises(ValueError, match=f"a.ckpt: {name} is no name of a parameter"):
        TinyModule.load_from_checkpoint(path)


@pytest.mark.parametrize("kind", [TinyModule, TinyData])
def test_a_checkpoint_imports_nothing_by_its_hyperparameters(tmp_path, monkeypatch, kind):
    (tmp_path / "imported_by_a_file.py").write_text("class Foreign: ...")
    monkeypatch.syspath_prepend(tmp_path)
    how = {
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
        "optimizer": {"class_path": "imported_by_a_file.Foreign"},
    }
    path = tmp_path / "a.ckpt"
    content = {"state_dict": TinyModule().state_dict(), kind.CHECKPOINT_HYPER_PARAMS_KEY: how}
    torch.save({"pytorch-lightning_version": "2.6.0", **content}, path)
    with path.open("rb") as file:
        for source in (path, file):
            with pytest.raises(ValueError, match="names classes to import"):
                kind.load_from_checkpoint(source)
    assert "imported_by_a_file" not in sys.modules


def test_facts_are_read_of_a_checkpoint_whose_weights_are_not(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"w": SENTINEL}, KEY: {"target_mean": SENTINEL + 1}}, path)
    stored = path.read_bytes()
    path.write_bytes(stored.replace(struct.pack("<f", 1.2345), struct.pack("<f", 1.5)))
    assert torch.equal(read_facts(path)["target_mean"], SENTINEL + 1)
    with pytest.raises(ValueError, match="data/0 does not match"):
        load_archive(path)


def test_damaged_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"w": SENTINEL}, path)
    content = path.read_bytes()
    assert torch.equal(load_safetensors(path)["w"], SENTINEL)
    for damaged in (
        b"",
        content[:-1],
        content + b"\0",
        b"\xff" * 8 + content[8:],
        content.replace(b"[64]", b"[65]"),
        content.replace(b"[0,256]", b"[0,999]"),
    ):
        path.write_bytes(damaged)
        said = refusal(path, load_safetensors)
        assert said.startswith(f"{path} is damaged or incomplete and was not loaded: ")


def test_a_header_of_safetensors_that_lists_more_than_the_limit(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({f"{number}": torch.zeros(0) for number in range(1000)}, path)
    assert len(load_safetensors(path)) == 1000
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.001")
    with pytest.raises(
        ValueError, match=r"a\.safetensors: what its header lists would take .* Gi?"
    ):
        load_safetensors(path)


def test_nothing_else_opens_archives_or_pickles():
    own = ("framework", "modules", "datamodules", "callbacks")
    sources = {p: p.read_text() for name in own for p in (ROOT / name).rglob("*.py")}
    called = re.compile(r"\b(torch\.load|pickle\.loads?|Unpickler|load_file|safe_open)\(")
    found = {p.relative_to(ROOT).as_posix() for p, text in sources.items() if called.search(text)}
    assert found == {"framework/utilities/tensor_archive.py"}


def test_a_plugin_of_a_person_stays(tmp_path):
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    for plugin in (own, AsyncCheckpointIO(own)):
        made = trainer(tmp_path / "a", plugins=[plugin])
        use_atomic_checkpoints(made)
        assert made.strategy.checkpoint_io is plugin
        assert getattr(plugin, "checkpoint_io", own) is own
