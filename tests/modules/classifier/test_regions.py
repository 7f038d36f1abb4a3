"""A classifier of two inputs draws its regions over its training rows, hidden labels in gray."""

import pytest
from lightning.pytorch import Trainer

from datamodules import Digits, SemiSupervised, TwoGaussians
from modules import Classifier
from modules.classifier.regions import region_figures

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "limit_val_batches": 0,
}


def fitted(data):
    model = Classifier.for_data(data, backbone="mlp", widths=[])
    Trainer(max_steps=1, **QUIET).fit(model, datamodule=data)
    return model


@pytest.mark.pictures
def test_two_inputs_have_regions():
    data = SemiSupervised(
        TwoGaussians(num_train=60, num_test=10, dimensions=2, val_size=10), labeled=8
    )
    model = fitted(data)
    figures = region_figures(model, model.input_shape, ["minus", "plus"])
    assert list(figures) == ["decision_regions"]
    said = figures["decision_regions"].axes[0].get_title(loc="left")
    assert said == "8 points with a class and 42 without"
    assert model.training


def test_other_inputs_have_none():
    model = fitted(Digits(test_size=1500, val_size=100))
    assert region_figures(model, model.input_shape, None) == {}
