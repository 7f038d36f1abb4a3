"""A run ends at a training loss: at the same epoch on two ranks and after a resume."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import MetricsSummary, StopAtTrainLoss
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Module(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1)
        with torch.no_grad():
            for value in self.parameters():
                value.fill_(1.0)
        self.means: list[float] = []

    def on_train_epoch_start(self) -> None:
        if (mean := self.trainer.callback_metrics.get("train/loss_epoch")) is not None:
            self.means.append(float(mean))


def fit(folder, threshold, metric="train/loss_epoch", ckpt_path=None, callbacks=(), **options):
    module, stop = Module(), StopAtTrainLoss(threshold, metric)
    trainer = tiny_trainer(folder, [stop, *callbacks], False, **{"max_epochs": 8, **options})
    trainer.fit(module, TinyData(), ckpt_path=ckpt_path, weights_only=True)
    return trainer, module


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    _, module = fit(tmp_path_factory.mktemp("whole"), -1.0)
    assert len(module.means) == 7, "never reached"
    assert sorted(module.means, reverse=True) == module.means
    return module.means


def test_ends_at_the_first_epoch_at_or_below(losses, tmp_path, capfd):
    trainer, _ = fit(tmp_path, losses[3], callbacks=[MetricsSummary()])
    assert trainer.current_epoch == 4
    assert "stopped early at step 24: Stopping threshold reached: " in capfd.readouterr().out
    trainer, _ = fit(tmp_path, losses[3] - 1e-6)
    assert trainer.current_epoch == 5


def test_a_metric_of_validation(tmp_path):
    trainer, _ = fit(tmp_path, 100.0, "val/loss")
    assert trainer.current_epoch == 1


def test_a_metric_that_nobody_logs_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="metric `train/los` which is not available"):
        fit(tmp_path, 1.0, "train/los")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_stops_where_the_whole_one_does(losses, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", save_top_k=-1, every_n_train_steps=9)
    whole, module = fit(tmp_path, losses[3], callbacks=[keep])
    end = ModelCheckpoint(tmp_path / "end", save_last=True)
    resumed, again = fit(
        tmp_path, losses[3], ckpt_path=tmp_path / "kept/step=9.ckpt", callbacks=[end]
    )
    assert resumed.global_step == whole.global_step == 24
    assert torch.equal(module.network.weight, again.network.weight)
    # what had stopped trains no further, but by a lower threshold
    last = tmp_path / "end" / "last.ckpt"
    assert fit(tmp_path, losses[3], ckpt_path=last)[0].global_step == 24
    assert fit(tmp_path, losses[5], ckpt_path=last)[0].global_step == 36


def on_a_rank(folder, threshold):
    trainer, _ = fit(folder, threshold, devices=2, strategy="ddp", limit_val_batches=0)
    return trainer.global_step


def test_two_ranks_stop_at_the_same_epoch(losses, tmp_path, two_ranks):
    assert two_ranks(on_a_rank, tmp_path, losses[2] + 1e-6) == [18, 18]
