"""Calibrated thresholds keep k features per token on the validation set."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import Callback

from callbacks.sae_lens_export import SAELensExport
from callbacks.threshold_calibration import ThresholdCalibration
from datamodules.activations.file import ActivationFile
from framework.objectives.errors import IncompatibleError
from tests.helpers.configs import arguments
from tests.helpers.runs import fit, fit_on_two_ranks
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

# most of the file is validated, so that one entry more or less is little
LARGE = ["--data.val_size=140", "--data.test_size=20", "--trainer.logger=false"]


class Look(Callback):
    """Remembers what validation found."""

    def on_validation_end(self, trainer, pl_module):
        if trainer.sanity_checking:
            return  # logs nothing
        self.l0 = float(trainer.callback_metrics["val/l0"])
        self.rule = "val/fvu_batch_rule" in trainer.callback_metrics


@pytest.mark.parametrize("system", ["sae_mutual", "sae_feature"])
def test_the_mean_number_of_features_is_k(system: str, tmp_path: Path) -> None:
    look = Look()
    fit([*arguments(system), *LARGE, f"--run_folder={tmp_path}"], [look])
    assert look.l0 == pytest.approx(4, rel=0.01)
    # a batch of consecutive text must not be encoded by feature choice
    assert look.rule is (system == "sae_mutual")


def test_training_data_are_sampled_before_training_and_never_again(tmp_path, monkeypatch) -> None:
    asked: list[int] = []
    sample = ActivationFile.sample
    monkeypatch.setattr(
        ActivationFile, "sample", lambda self, rows: (asked.append(rows), sample(self, rows))[1]
    )

    class Count(Callback):
        def on_train_start(self, trainer, pl_module):
            self.at_start = len(asked)

    count = Count()
    args = [*arguments("sae_feature"), *LARGE, f"--run_folder={tmp_path}"]
    fit(args, [count])
    # for the common size, the bias and the thresholds
    assert len(asked) == count.at_start == 3
    # a resumed run has its size and bias, and needs no thresholds where there are none
    asked.clear()
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    fit([*args, f"--ckpt_path={checkpoint}", "--trainer.max_epochs=4"])
    assert len(asked) == 1
    asked.clear()
    fit([*arguments("sae_mutual"), *LARGE, f"--run_folder={tmp_path / 'mutual'}"])
    assert len(asked) == 2


def on_a_rank(args: list[str]) -> list[float]:
    record = fit_on_two_ranks(args)
    return record.parameters["sae.thresholds.calibrated"].tolist()


def test_two_ranks_calibrate_as_one_process(tmp_path: Path, two_ranks) -> None:
    args = [*arguments("sae_feature"), *LARGE, "--trainer.precision=64-true"]
    one = fit([*args, f"--run_folder={tmp_path / 'one'}"])
    expected = one.parameters["sae.thresholds.calibrated"].tolist()
    assert max(expected) > 0
    for found in two_ranks(on_a_rank, [*args, f"--run_folder={tmp_path / 'two'}"]):
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_run_exports_its_autoencoder(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    args = [*arguments("sae_mutual"), "--trainer.logger=false", "--trainer.max_steps=2"]
    fit([*args, f"--run_folder={tmp_path}"], [SAELensExport()])
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]


def test_refuses_before_training_what_cannot_be_exported(tmp_path: Path) -> None:
    args = [*arguments("sae", "with/sae_transcoder"), "--trainer.logger=false"]
    args = [*args, f"--run_folder={tmp_path}"]
    look = Look()
    with pytest.raises(IncompatibleError, match="no TopK transcoder"):
        fit(args, [SAELensExport(), look])
    assert not hasattr(look, "l0")
    assert not (tmp_path / "checkpoints").exists()
    # an overlay changes the rule, and it is written
    args = [*arguments("sae", "with/sae_transcoder", "with/sae_batchtopk"), *args[-2:]]
    fit([*args, "--trainer.max_steps=2"], [SAELensExport()])
    assert (tmp_path / "sae" / "cfg.json").is_file()


@pytest.mark.parametrize("callback", [ThresholdCalibration(), SAELensExport()])
def test_refuses_a_module_of_another_kind(callback: Callback, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="TinyModule"):
        tiny_trainer(tmp_path, [callback], False).fit(TinyModule(), datamodule=TinyData())


def test_refuses_data_without_a_validation_set(tmp_path: Path) -> None:
    args = [*arguments("sae_mutual"), "--data.val_size=0", "--trainer.logger=false"]
    with pytest.raises(IncompatibleError, match="needs a validation set"):
        fit([*args, f"--run_folder={tmp_path}"])
