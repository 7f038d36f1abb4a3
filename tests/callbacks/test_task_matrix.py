"""The task matrix is what a second look at the models gives, on one process, two and resumed."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import TaskMatrix
from datamodules import ClassIncremental
from framework.metrics import average_forgetting_of
from framework.objectives.errors import IncompatibleError
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

TASKS = [[1], [0], [2]]
# the last batch of the validation has one row, and none for the other rank
EVEN = {"precision": "64-true", "limit_val_batches": 2}


class Module(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.2)
        with torch.no_grad():
            self.network.weight.zero_()
            self.network.bias.zero_()


class ByHand(Callback):
    """Measures at the end of each epoch, from the validation set itself."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, pl_module):
        fields = trainer.datamodule.val_set.fields
        with torch.no_grad():
            right = (
                pl_module.network(fields["image"].to(pl_module.dtype)).argmax(1) == fields["label"]
            )
        task = torch.tensor([1, 0, 2])[fields["label"]]
        self.rows.append(torch.stack([right[task == k].float().mean() for k in range(3)]))


def data():
    return ClassIncremental(TinyData(), tasks=TASKS, epochs_per_task=2, batch_size=4)


def fit(folder, callbacks=(), **options):
    matrix, hand = TaskMatrix(), ByHand()
    settings = {"max_epochs": 6, **options}
    path = settings.pop("ckpt_path", None)
    trainer = tiny_trainer(folder, [matrix, hand, *callbacks], False, **settings)
    trainer.fit(Module(), data(), ckpt_path=path, weights_only=True)
    return matrix, hand, {k: float(v) for k, v in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    keep = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=9)
    return folder, *fit(folder, [keep])


def test_rows_are_the_accuracies_after_each_task(whole):
    _, matrix, hand, metrics = whole
    expected = torch.stack(hand.rows)[1::2]
    torch.testing.assert_close(matrix.matrix, expected)
    assert expected.max() == 1
    assert metrics["val/forgetting"] == pytest.approx(float(average_forgetting_of(expected)))
    assert metrics["val/forgetting"] > 0.5
    assert metrics["val/average_accuracy"] == pytest.approx(float(expected[-1].mean()))
    assert metrics["val/task_2"] == float(expected[-1, 2])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_goes_on_after_a_resume(whole, tmp_path):
    folder, matrix, _, metrics = whole
    again, _, resumed = fit(tmp_path, ckpt_path=folder / "step=9.ckpt")
    assert torch.equal(again.matrix, matrix.matrix)
    assert resumed["val/forgetting"] == metrics["val/forgetting"]


def on_a_rank(folder):
    matrix, _, metrics = fit(folder, devices=2, strategy="ddp", **EVEN)
    return matrix.matrix, metrics["val/forgetting"]


def test_two_ranks_are_one(whole, tmp_path, two_ranks):
    one, _, metrics = fit(tmp_path, **EVEN)
    for matrix, forgetting in two_ranks(on_a_rank, tmp_path):
        assert torch.equal(matrix, one.matrix)
        assert forgetting == pytest.approx(metrics["val/forgetting"])


def test_needs_tasks(tmp_path):
    with pytest.raises(IncompatibleError, match="tasks of ClassIncremental, which TinyData does"):
        tiny_trainer(tmp_path, [TaskMatrix()], False).fit(Module(), TinyData())
