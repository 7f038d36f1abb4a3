"""A machine with a constraint, a slack, a penalty and a multiplier for every training row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from datamodules import BreastCancer
from framework.objectives.errors import IncompatibleError
from modules import ConstrainedSVM
from tests.helpers.runs import largest_difference

ROWS = {"clean_size": 30, "val_size": 20, "test_size": 461}
# of 58 rows the last batch has one, so that a rank has none
UNEVEN = 19


def fitted(folder: Path, steps: int, batch_size: int = 20, **options: Any) -> ConstrainedSVM:
    torch.set_num_threads(1)
    path = options.pop("ckpt_path", None)
    model = ConstrainedSVM(
        num_inputs=30,
        eta=0.02,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.02),
        penalty_lr_scale=10.0,
        lr_scheduler=None,
    )
    defaults = {
        "max_steps": steps,
        "precision": "64-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
    }
    trainer = Trainer(default_root_dir=folder, **{**defaults, **options})
    trainer.fit(model, datamodule=BreastCancer(batch_size=batch_size, **ROWS), ckpt_path=path)
    return model


def state(model: ConstrainedSVM) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def on_two_ranks(folder: Path) -> dict[str, torch.Tensor]:
    """Fit on this rank of a pair."""
    return state(fitted(folder, 8, UNEVEN, devices=2, strategy="ddp"))


def test_two_ranks_take_the_steps_of_one(tmp_path, two_ranks):
    alone = state(fitted(tmp_path, 8, UNEVEN))
    one, two = two_ranks(on_two_ranks, tmp_path)
    assert int(alone["steps"]) == 8
    assert largest_difference(alone, one) < 1e-12
    assert largest_difference(one, two) == 0


def test_all_margins_hold_after_a_step_of_all_rows(tmp_path):
    model = fitted(tmp_path, 5, batch_size=58)
    source = BreastCancer(batch_size=58, **ROWS)
    source.setup("fit")
    rows = source.train_set.fields
    batch = {"input": rows["input"].double(), "label": rows["label"], "index": torch.arange(58)}
    values, index = model.constraints(model.upper, model.network, batch)
    values = values.detach()
    assert float(values.max()) < 1e-9
    assert float(values.max()) > -1e-9
    assert torch.equal(index, torch.arange(58))
    assert float(model.multipliers.min()) == 0
    assert float(model.multipliers.max()) > 0
    assert float(model.z.max()) > 0
    assert len(model.upper["penalties"].unique()) > 10


def test_the_lower_loss_is_the_papers_over_all_rows():
    model = ConstrainedSVM(num_inputs=2)
    model._resize(3)
    with torch.no_grad():
        model.network.weight.copy_(torch.tensor([3.0, 4.0]))
        model.network.slack.copy_(torch.tensor([1.0, 2.0, 0.0]))
        model.upper["penalties"].copy_(torch.tensor([0.5, -1.0, 7.0]))
    batch = {"index": torch.tensor([2, 0, 1]), "input": torch.zeros(3, 2)}
    value = model.lower_loss(model.upper, model.network, batch).mean()
    expected = 12.5 + (torch.tensor(0.5).exp() + 4 * torch.tensor(-1.0).exp()) / 2
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-5)


def test_constraints_have_gradients_of_length_1():
    model = ConstrainedSVM(num_inputs=2)
    model._resize(2)
    batch = {
        "input": torch.tensor([[1.0, 2.0], [0.0, -3.0]]),
        "label": torch.tensor([1, 0]),
        "index": torch.tensor([1, 0]),
    }
    values, rows = model.constraints(model.upper, model.network, batch)
    assert rows.tolist() == [1, 0]
    for value in values:
        parts = torch.autograd.grad(value, list(model.network.parameters()), retain_graph=True)
        assert float(sum(p.square().sum() for p in parts)) == pytest.approx(1, abs=1e-6)


class SavesAtStep5(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 5:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "step5.ckpt")


def test_a_resumed_run_has_the_same_bits(tmp_path):
    path = tmp_path / "step5.ckpt"
    whole = fitted(tmp_path, 9, callbacks=[SavesAtStep5()])
    resumed = fitted(tmp_path, 9, ckpt_path=path)
    assert largest_difference(state(whole), state(resumed)) == 0
    saved = torch.load(path, weights_only=True)["state_dict"]
    names = {"upper.penalties", "network.slack", "theta.slack", "multipliers", "z", "steps"}
    assert names <= set(saved)
    assert int(saved["steps"]) == 5


def test_missing_inputs_are_named():
    with pytest.raises(ValueError, match=r"set model.num_inputs"):
        ConstrainedSVM()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_classes": 10}, "two classes apart, and Table has 10: give data of two classes"),
        ({"input_shape": (4,)}, r"Table has 4 inputs, .* for 30: set model\.num_inputs to 4\."),
    ],
)
def test_data_that_does_not_fit_is_named(facts, message, monkeypatch):
    data = type("Table", (), {"num_classes": 2, "input_shape": (30,), **facts})()
    monkeypatch.setattr(ConstrainedSVM, "datamodule", data)
    with pytest.raises(IncompatibleError, match=message):
        ConstrainedSVM(num_inputs=30).setup("fit")
