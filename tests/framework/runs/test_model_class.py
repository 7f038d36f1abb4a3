"""A checkpoint of another class of modules is refused by the names of both."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

import trimtab
from framework.runs.checkpoint_io import AtomicCheckpointIO
from framework.runs.model_class import KEY, class_paths, other_class, read_model_classes
from modules import Classifier, NestedClassifier, Regressor
from tests.helpers.runs import CONFIGS, QUIET, ROOT
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

OWN = type("Own", (Classifier,), {})
OTHER = type("Other", (Classifier,), {})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a classifier's run."""
    shutil.copytree(ROOT / "tests" / "version_0_1" / "classifier_aldr", tmp_path / "run")
    for path in (tmp_path / "run").glob("checkpoints/*.ckpt"):
        state = AtomicCheckpointIO().load_checkpoint(path)
        torch.save({**state, KEY: class_paths(Classifier)}, path)
    return tmp_path / "run"


def test_a_checkpoint_has_the_class_and_its_bases(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=1)
    trainer.fit(TinyModule(), TinyData())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert read_model_classes(tmp_path / "a.ckpt") == class_paths(TinyModule)
    torch.save({KEY: "modules.Classifier"}, tmp_path / "a.ckpt")
    assert read_model_classes(tmp_path / "a.ckpt") == []
    assert read_model_classes(tmp_path / "absent.ckpt") == []


@pytest.mark.parametrize(
    ("saved", "kind", "other"),
    [
        (Classifier, Regressor, "Classifier"),
        (OWN, Regressor, "Own"),
        (Regressor, OWN, "Regressor"),
        (Classifier, Classifier, None),
        (Classifier, NestedClassifier, None),
        (OWN, Classifier, None),
        (OWN, OTHER, None),  # as one's new name
    ],
)
def test_what_cannot_take_a_checkpoint(saved: type, kind: type, other: str | None) -> None:
    assert other_class(class_paths(saved), kind) == other
    assert other_class([], kind) is None


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(("system", "name"), [("regressor", "Regressor"), ("gghl", "GGHL")])
def test_another_config_than_that_of_the_checkpoint(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    system: str,
    name: str,
) -> None:
    before = {path for path in run.rglob("*") if path.is_file()}
    config = f"--config={CONFIGS / system}.yaml"
    with pytest.raises(SystemExit) as stop:
        trimtab.main([command, config, f"--ckpt_path={run}", *QUIET])
    assert stop.value.code == 1
    assert re.search(
        rf"trimtab: \S+/run/checkpoints/\w+\.ckpt is the checkpoint of a run of Classifier, and "
        rf"the model of the config is {name}: leave --config out, which takes that run's own, or "
        rf"name the checkpoint of a run of {name}\.\n$",
        capsys.readouterr().err,
    )
    now = {path for path in run.rglob("*") if path.is_file()}
    assert now - before <= {run / ".run.json"}


def test_a_given_model_of_another_class(run: Path) -> None:
    with pytest.raises(ValueError, match="of a run of Classifier, and the given model is Regr"):
        trimtab.load(run, model=Regressor(num_inputs=3))
