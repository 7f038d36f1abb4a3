"""Runs on bags by the command, and what they must equal."""

import numpy as np
import pytest
import torch

from datamodules import Bags, Tabular
from framework.objectives.errors import IncompatibleError
from framework.solvers import AggregateRidge
from tests.helpers.configs import arguments
from tests.helpers.runs import CONFIGS, fit

DIGITS = [
    f"--config={CONFIGS / 'classifier.yaml'}",
    "--model.backbone=mlp",
    "--model.widths=[]",
    "--trainer.logger=false",
    "--trainer.max_epochs=1",
]
BAGGED = [
    "--data=Bags",
    "--data.data=Digits",
    "--data.data.val_size=1300",
    "--data.bag_size=3",
    "--data.batch_size=32",
]


@pytest.mark.parametrize("rho", [0.03, 1.0])
def test_the_trained_model_is_the_closed_form(rho, tmp_path):
    record = fit(
        [
            f"--config={CONFIGS / 'aggregate.yaml'}",
            f"--run_folder={tmp_path}",
            "--trainer.logger=false",
            f"--model.criterion.rho={rho}",
            # the same minimum in fewer steps
            "--model.optimizer=LBFGS",
            "--model.optimizer.line_search_fn=strong_wolfe",
            "--trainer.max_epochs=10",
            "--trainer.precision=64-true",
        ]
    )
    data = Bags(Tabular(val_size=90, test_size=32), bag_size=10)
    data.setup("fit")
    train = data.train_set.dataset.batch(data.train_set.indices)
    closed = AggregateRidge(rho).fit(
        *(train[name].numpy() for name in ("input", "target", "group"))
    )
    weight, bias = record.parameters.values()
    assert weight.flatten().tolist() == pytest.approx(closed.coef_.tolist(), abs=1e-4)
    assert bias.item() == pytest.approx(closed.intercept_, abs=1e-4)
    rows = data.val_set.dataset.batch(data.val_set.indices)
    error = np.mean((closed.predict(rows["input"].numpy()) - rows["target"].numpy()) ** 2)
    assert record.metrics["val/loss"] == pytest.approx(error, abs=1e-4)


def test_classes_are_learned_from_proportions(tmp_path):
    criterion = ["--model.criterion=AggregateResponseLoss", "--model.criterion.base=ce"]
    root = f"--run_folder={tmp_path}"
    record = fit(
        [*DIGITS, *BAGGED, *criterion, root, "--model.optimizer.lr=0.1", "--trainer.max_epochs=8"]
    )
    assert record.metrics["val/accuracy"] > 0.7
    # an evaluated row is a bag of its own, whose loss is the cross-entropy
    assert record.metrics["val/loss"] < 2


def test_a_loss_for_hard_labels_alone_names_what_it_was_given(tmp_path):
    args = [*DIGITS, *BAGGED, "--model.criterion=LDRLoss"]
    with pytest.raises(ValueError, match="LDRLoss is defined for hard labels only"):
        fit([*args, f"--run_folder={tmp_path}"])


def test_another_number_of_inputs_is_refused(tmp_path):
    args = [*arguments("aggregate"), "--model.num_inputs=9"]
    with pytest.raises(IncompatibleError, match="Bags has input_size 10, but the model"):
        fit([*args, f"--run_folder={tmp_path}"])


def test_batches_of_a_run_are_whole_bags(tmp_path):
    record = fit([*arguments("aggregate"), f"--run_folder={tmp_path}"])
    data = Bags(Tabular(val_size=260, test_size=50), bag_size=10)
    data.setup("fit")
    group = data.train_set.dataset.fields["group"]
    for step in record.steps:
        found, counts = group[torch.tensor(step["index"])].unique(return_counts=True)
        assert torch.equal(counts, torch.bincount(data.bag_of_row)[found])
    assert [len(step["index"]) < 12 for step in record.steps] == [
        False,
        False,
        False,
        False,
        True,
    ] * 3
