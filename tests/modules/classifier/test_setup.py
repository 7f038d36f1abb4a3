"""What is known to fail or to mislead is said at the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from jsonargparse import Namespace
from torch.utils.data import Subset

from datamodules import Digits
from framework.command.data_arguments import normalize_as_pretrained
from framework.layers.timm_backbone import timm_features
from framework.objectives.errors import IncompatibleError
from framework.training.module import TrainingModule
from modules import Classifier
from modules.classifier.network import build_network
from tests.helpers.tiny import tiny_trainer


class SomeDigits(Digits):
    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.train_set = Subset(self.train_set.dataset, range(9))


def fit(folder: Any, data: Digits, limits: dict[str, Any] | None = None, **model: Any) -> None:
    trainer = tiny_trainer(folder, [], False, max_epochs=1, limit_val_batches=0, **(limits or {}))
    module = Classifier.for_data(data, **model)
    trainer.fit(module, data)


def test_a_last_batch_of_one_row_under_batch_norm(tmp_path):
    with pytest.raises(
        IncompatibleError,
        match=r"last training batch is one of the 9 rows \(batch_size 8\).* set data\.drop_last",
    ):
        fit(tmp_path, SomeDigits(batch_size=8), backbone="resnet10t")
    # the same network where nothing is left of one value per channel, and others where it is
    fit(tmp_path, SomeDigits(batch_size=8, drop_last=True), backbone="resnet10t")
    fit(tmp_path, SomeDigits(batch_size=8), backbone="cnn", widths=(2, 2))
    fit(tmp_path, SomeDigits(batch_size=8), widths=(4,))


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(
    "limits", [{"limit_train_batches": 1}, {"fast_dev_run": True}, {"overfit_batches": 1}]
)
def test_a_batch_of_one_row_that_no_epoch_comes_to(tmp_path, limits):
    fit(tmp_path, SomeDigits(batch_size=8), limits, backbone="resnet10t")


def test_one_row_is_refused_on_any_number_of_ranks(tmp_path, monkeypatch):
    def joined(module):
        # takes one row, as batch norm over several ranks does
        module.network = build_network("mlp", 10, (1, 8, 8), (4,), False)

    setup = TrainingModule.setup
    monkeypatch.setattr(
        TrainingModule, "setup", lambda self, stage: (joined(self), setup(self, stage))
    )
    with pytest.raises(IncompatibleError, match="one of the 9 rows"):
        fit(tmp_path, SomeDigits(batch_size=8), backbone="resnet10t")


def test_the_size_of_images_is_handed_to_transformers():
    body, size = timm_features("vit_tiny_patch16_224", (3, 32, 48))
    assert body(torch.zeros(2, 3, 32, 48)).shape == (2, size)


def test_a_size_that_a_backbone_cannot_take():
    with pytest.raises(
        ValueError,
        match=r"'maxvit_pico_rw_256' takes no images of 100 x 100 \(.*\); it is made for 256 x 256",
    ):
        timm_features("maxvit_pico_rw_256", (3, 100, 100))


def test_pretrained_weights_get_the_scale_they_were_trained_with():
    model = Namespace(backbone="resnet18", pretrained=True)
    data = Namespace(mean=None, std=None, channels=None)
    normalize_as_pretrained(model, data)
    assert data.mean == list(timm.get_pretrained_cfg("resnet18").mean)
    assert data.std == [0.229, 0.224, 0.225]
    assert data.channels == 3
    own = Namespace(mean=[0.5], std=[0.5], channels=None)
    normalize_as_pretrained(model, own)
    assert own.mean == [0.5]
    normalize_as_pretrained(Namespace(backbone="resnet18", pretrained=False), plain := own.clone())
    assert plain == own


def test_in_python_they_are_named(tmp_path, monkeypatch):
    module = Classifier(10, (1, 8, 8), backbone="resnet10t")
    module.pretrained = True  # without the download
    trainer = tiny_trainer(
        tmp_path, [], False, max_epochs=1, limit_val_batches=0, limit_train_batches=1
    )
    with pytest.warns(UserWarning, match=r"of resnet10t were trained on images normalized by mean"):
        trainer.fit(module, Digits())


def test_no_run_ends_by_names_that_do_not_fit():
    module = Classifier(3, (1, 8, 8))
    module.make_datamodule = lambda: SimpleNamespace(class_names=["a", "b"])
    assert module.names_of_classes() is None
    assert "confusion_matrix" in module.figures("val", {"confusion": torch.eye(3)})
    module.data_facts = {"class_names": ["a", "b", "c"]}
    assert module.names_of_classes() == ["a", "b", "c"]


def test_one_class_is_none_to_tell_apart():
    with pytest.raises(ValueError, match=r"two classes or more .* has 1\."):
        Classifier(num_classes=1, input_shape=(1, 8, 8))
