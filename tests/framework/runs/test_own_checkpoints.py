"""Of the files that a checkpoint names, a run takes only its own for its own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from framework.runs.own_checkpoints import own_checkpoints
from framework.runs.run_checkpoint import RunCheckpoint
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def paths_outside(folder: Path) -> list[str]:
    """Return paths that are none of a checkpoint directly in a folder."""
    (folder / "link.ckpt").symlink_to(folder.parent / "thesis.ckpt")
    (folder / "way.ckpt").symlink_to(folder.parent)
    return [
        str(folder.parent / "thesis"),
        str(folder.parent / "thesis.ckpt"),
        f"{folder}/../thesis.ckpt",
        f"{folder}/../thesis",
        f"{folder}/sub/best.ckpt",
        f"{folder}/best.pt",
        f"{folder}/link.ckpt",
        f"{folder}/way.ckpt/thesis.ckpt",
        f"{folder}/..",
        f"local://{folder}/best.ckpt",
        "s3://bucket/best.ckpt",
        f"{folder}/\0.ckpt",
        "",
    ]


def test_files_elsewhere_are_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    callback = ModelCheckpoint(dirpath=folder, monitor="loss", save_top_k=2)
    own = {str(folder / name): torch.tensor(score) for name, score in (("a.ckpt", 1.0),)}
    for path in paths_outside(folder):
        state: dict[str, Any] = {
            "best_model_path": path,
            "last_model_path": path,
            "kth_best_model_path": path,
            "kth_value": torch.tensor(9.0),
            "best_k_models": {**own, path: torch.tensor(9.0)},
        }
        kept = own_checkpoints(callback, state)
        assert kept["best_k_models"] == own
        assert kept["kth_best_model_path"] == str(folder / "a.ckpt")
        assert float(kept["kth_value"]) == 1.0
        assert (kept["best_model_path"], kept["last_model_path"]) == ("", "")


def test_the_files_of_a_run_are_kept(tmp_path: Path) -> None:
    callback = ModelCheckpoint(dirpath=tmp_path, monitor="loss", save_top_k=2)
    a, b = str(tmp_path / "a.ckpt"), str(tmp_path / "b.ckpt")
    state = {
        "best_model_path": a,
        "last_model_path": b,
        "kth_best_model_path": b,
        "kth_value": torch.tensor(2.0),
        "best_k_models": {a: torch.tensor(1.0), b: torch.tensor(2.0)},
        "dirpath": str(tmp_path),
    }
    assert own_checkpoints(callback, state) == state
    remote = ModelCheckpoint(dirpath="memory://runs/one")
    for path, name in (("memory://runs/one/a.ckpt", "a"), ("memory://runs/two/a.ckpt", "")):
        assert bool(own_checkpoints(remote, {"best_model_path": path})["best_model_path"]) is bool(
            name
        )


@pytest.mark.parametrize("kind", [RunCheckpoint, ModelCheckpoint])
@pytest.mark.parametrize("way", ["../../thesis", "../../thesis.ckpt", "sub.ckpt"])
def test_a_checkpoint_removes_nothing_but_its_own(tmp_path: Path, kind: type, way: str) -> None:
    folder = tmp_path / "run" / "checkpoints"
    target = folder / way

    def trainer(epochs: int) -> Trainer:
        best = kind(dirpath=folder, filename="best-{step}", monitor="val/loss", mode="max")
        return tiny_trainer(folder.parent, [best], False, max_epochs=epochs)

    data, module = TinyData(), TinyModule()
    trainer(1).fit(module, data)
    (first,) = folder.glob("*.ckpt")
    target.mkdir(parents=True)
    (target / "chapter").touch()
    saved = torch.load(first, weights_only=True)
    (state,) = (one for key, one in saved["callbacks"].items() if kind.__name__ in key)
    low = torch.tensor(-1e9)
    for name in ("best_model_path", "last_model_path", "kth_best_model_path"):
        state[name] = str(target)
    state |= {"best_k_models": {str(target): low}, "kth_value": low, "best_model_score": low}
    torch.save(saved, folder / "evil.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(2).fit(TinyModule(), data, ckpt_path=folder / "evil.ckpt", weights_only=True)
    assert (target / "chapter").exists()
    assert len(list(folder.glob("best-*.ckpt"))) == 2


class Worsens(Callback):
    """Logs a score that falls with every epoch."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("score", -float(trainer.current_epoch))


def test_a_moved_run_keeps_its_best_until_something_better_comes(tmp_path: Path) -> None:
    def train(run: Path, epochs: int, checkpoint: Path | None = None) -> Any:
        folder = run / "checkpoints"
        best = RunCheckpoint(dirpath=folder, filename="best", monitor="score", mode="max")
        last = RunCheckpoint(dirpath=folder, filename="last")
        trainer = tiny_trainer(run, [Worsens(), best, last], False, max_epochs=epochs)
        trainer.fit(TinyModule(), TinyData(), ckpt_path=checkpoint, weights_only=True)
        return best

    before, now = tmp_path / "before", tmp_path / "now"
    train(before, 1)
    first = (before / "checkpoints" / "best.ckpt").read_bytes()
    before.rename(now)
    best = train(now, 3, now / "checkpoints" / "last.ckpt")
    assert best.best_model_path == str(now / "checkpoints" / "best.ckpt")
    assert Path(best.best_model_path).read_bytes() == first
    assert not before.exists()
    # a run that begins from another's checkpoint has a best of its own
    with pytest.warns(UserWarning, match="dirpath has changed"):
        other = train(tmp_path / "other", 4, now / "checkpoints" / "last.ckpt")
    assert other.best_model_path == str(tmp_path / "other" / "checkpoints" / "best.ckpt")
    assert float(other.best_model_score) == -3
