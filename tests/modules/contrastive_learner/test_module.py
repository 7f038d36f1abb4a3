"""Contrastive learning: two views or two modes, and an evaluation by the training samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules import Digits, LongTailed, TwoViews
from framework.contrastive import NTXentLoss, RobustContrastiveLoss
from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset
from framework.objectives.errors import IncompatibleError
from modules import ContrastiveLearner
from modules.contrastive_learner import build_encoder, build_projector


def learner(**options: Any) -> ContrastiveLearner:
    torch.manual_seed(0)
    sizes = {"input_shape": (1, 8, 8), "widths": (4, 8), "projector": (8, 4), "neighbors": 3}
    return ContrastiveLearner(**(sizes | options))


def trainer(**options: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
    }
    return Trainer(**(quiet | options))


def views(rows: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(1)
    image, image2 = torch.rand(2, rows, 1, 8, 8)
    return {"image": image, "image2": image2, "index": torch.arange(rows)}


def test_the_term_is_the_criterion_of_both_embeddings():
    batch, model = views(), learner(criterion=NTXentLoss(0.2))
    objectives = model.objectives(batch)
    both = model.projector(model.encoder(torch.cat([batch["image"], batch["image2"]])))
    expected = NTXentLoss(0.2)(both[:6], both[6:])
    torch.testing.assert_close(objectives.terms["contrast"], expected)
    assert objectives.index is batch["index"]


def test_two_modes_have_networks_of_their_own():
    model = learner(input_shape=(5,), second_shape=(3,), backbone="mlp", widths=(8,))
    model.criterion.setup(6, None, torch.device("cpu"))
    assert model.criterion.mode == "bimodal"
    batch = {"input": torch.rand(6, 5), "input2": torch.rand(6, 3), "index": torch.arange(6)}
    model.objectives(batch).terms["contrast"].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.criterion.temperatures().shape == (6, 2)
    assert model(batch["input"]).shape == (6, 8)


def test_the_projector_ends_without_a_bias():
    layers = build_projector(3, (5, 4))
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert layers[-1].bias is None
    assert layers[-1].out_features == 4


def test_encoders_are_built_by_name():
    network, width = build_encoder("mlp", (5,), (7,))
    assert (width, network(torch.zeros(2, 5)).shape) == (7, (2, 7))
    network, width = build_encoder("cnn", (1, 8, 8), (4, 6))
    assert (width, network(torch.zeros(2, 1, 8, 8)).shape) == (6, (2, 6))
    with pytest.raises(ValueError, match=r"set model\.backbone to mlp"):
        build_encoder("cnn", (5,), (7,))


def test_an_epoch_measures_features_and_temperatures():
    data = TwoViews(LongTailed(Digits(), counts=[16, 12, *[5] * 8]), batch_size=40)
    model = learner()
    run = trainer(max_epochs=2)
    run.fit(model, data)
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    assert found["val/neighbor_accuracy"] > 0.2
    assert found["val/probe_accuracy"] > 0.2
    assert found["val/uniformity"] < 0 < found["val/alignment"]
    assert -1 <= found["val/frequency_correlation"] <= 1
    assert 0.05 <= found["train/temperature_p10"] <= found["train/temperature_p90"] <= 1
    # of the rows of the long tail only, by their place in all digits
    temperature = model.sample_temperatures()
    assert int((~temperature.isnan()).sum()) == 68
    assert len(temperature) == data.num_samples == 1617
    table = model.score_tables("val", model.metric_values)["temperatures"]
    assert [row[:2] for row in table.rows[:2]] == [("0", 16), ("1", 12)]
    assert set(model.predict(torch.rand(2, 1, 8, 8))) == {"embedding"}


class Pairs(DataModule):
    """Two modes without labels, of which training and validation are the same."""

    def __init__(self) -> None:
        super().__init__(batch_size=8)
        torch.manual_seed(2)
        self.train_set = ArrayDataset(input=torch.rand(16, 5), input2=torch.rand(16, 3))
        self.val_set = self.train_set
        self.input_shape = (5,)


def test_without_labels_there_is_no_accuracy():
    model = learner(input_shape=(5,), second_shape=(3,), backbone="mlp", widths=(8,))
    run = trainer(max_epochs=1)
    run.fit(model, Pairs())
    measured = {name for name in run.callback_metrics if name.startswith("val/")}
    assert measured == {"val/uniformity"}
    assert model.score_tables("val", model.metric_values) == {}


def test_temperatures_are_shown_once_a_sample_was_visited():
    model = learner()
    assert model.sample_temperatures() is None
    model.criterion.setup(6, None, torch.device("cpu"))
    assert model.sample_temperatures() is None
    model.objectives(views())
    assert model.sample_temperatures().shape == (6,)
    constant = learner(criterion=RobustContrastiveLoss(learn_temperature=False))
    constant.criterion.setup(6, None, torch.device("cpu"))
    constant.objectives(views())
    assert constant.sample_temperatures() is None


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"set model.input_shape"):
        ContrastiveLearner()
    with pytest.raises(ValueError, match=r"give model\.second_shape"):
        learner(criterion=RobustContrastiveLoss(mode="bimodal"))
    with pytest.raises(ValueError, match=r"drop model\.second_shape"):
        learner(
            input_shape=(5,),
            second_shape=(3,),
            backbone="mlp",
            criterion=RobustContrastiveLoss(),
        )
    batch = views()
    del batch["image2"]
    with pytest.raises(IncompatibleError, match="wrap the data in TwoViews"):
        learner().objectives(batch)
    with pytest.raises(ValueError, match="projector"):
        build_projector(3, ())
