"""A classifier of trained classes that is evaluated with classes that are added."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimtab
from callbacks.unit_norm_projection import UnitNormProjection
from datamodules import Digits, NovelClasses
from framework.embedding.heads import HypersphericalHead, SubCenterArcFaceHead
from framework.objectives.errors import IncompatibleError
from modules.embedding import NovelClassClassifier
from tests.helpers.configs import arguments
from tests.helpers.tiny import tiny_trainer


def small(shots: int = 2) -> NovelClasses:
    digits = Digits(val_size=100, test_size=1500)
    return NovelClasses(digits, novel=[7, 8, 9], shots=shots, batch_size=64, eval_batch_size=50)


def built(**options: Any) -> NovelClassClassifier:
    options = {"backbone": "mlp", "embedding_dim": 8, "shots": (1, 2), **options}
    return NovelClassClassifier(num_classes=7, input_shape=(1, 8, 8), **options)


def project(dim: int, classes: int) -> HypersphericalHead:
    return HypersphericalHead(dim, classes, constraint="project")


def test_evaluation_is_what_a_person_computes(tmp_path):
    torch.manual_seed(0)
    module, data = built(), small()
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=1)
    trainer.fit(module, data)
    values = module.metric_values
    assert {f"{name}@{k}" for name in ("joint", "joint_on_base") for k in (1, 2)} <= values.keys()
    batches = list(data.val_dataloader())
    image, label, shot = (
        torch.cat([b[name] for b in batches]) for name in ("image", "label", "shot")
    )
    classifier = module.eval().imprinted()
    for digit in (7, 8, 9):
        with torch.no_grad():
            classifier.add_class(module(image[(label == digit) & (shot > 0)]), str(digit))
    queries = shot == 0
    with torch.no_grad():
        predicted = classifier.predict(module(image[queries]))
    share = (predicted == label[queries]).double().mean()
    assert values["joint@2"].item() == pytest.approx(share.item(), abs=1e-6)


def test_a_saved_model_takes_further_classes(tmp_path):
    trimtab.main(
        ["fit", *arguments("novel_class"), f"--run_folder={tmp_path}", "--trainer.max_epochs=1"]
    )
    model = trimtab.load(tmp_path)
    classifier = model.imprinted()
    assert classifier.num_base == 7
    digits = torch.rand(3, 1, 8, 8)
    assert classifier.add_class(torch.as_tensor(model.predict(digits)["embedding"]), "new") == 7


def test_a_head_that_asks_for_a_projection_gets_one(tmp_path):
    with pytest.raises(IncompatibleError, match="add the callback UnitNormProjection"):
        tiny_trainer(tmp_path, [], False).fit(built(head=project), small())
    module = built(head=project)
    tiny_trainer(tmp_path, [UnitNormProjection()], False, max_epochs=1).fit(module, small())
    assert module.class_vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 7, abs=1e-6)


def test_more_supports_than_the_data_has(tmp_path):
    with pytest.raises(IncompatibleError, match=r"2 supports .* fewer than model.shots=\[1, 5\]"):
        tiny_trainer(tmp_path, [], False).fit(built(shots=(1, 5)), small())


def test_data_without_supports(tmp_path):
    plain = Digits(val_size=100, test_size=1500, eval_batch_size=50)
    module = NovelClassClassifier(
        num_classes=10, input_shape=(1, 8, 8), backbone="mlp", embedding_dim=8
    )
    with pytest.raises(IncompatibleError, match="test lack 'shot': novel classes need supports"):
        tiny_trainer(tmp_path, [], False).validate(module, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": None}, "model.head"),
        ({"head": SubCenterArcFaceHead}, "one vector for each class"),
        ({"sharded": True}, "leave model.sharded false"),
        ({"flip": "concat"}, "flip must be one of"),
        ({"shots": ()}, "shots must be at least 1"),
        ({"shots": (0,)}, "shots must be at least 1"),
    ],
)
def test_what_cannot_be_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)
