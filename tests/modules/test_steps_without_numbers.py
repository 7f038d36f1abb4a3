"""Training steps on tensors without numbers, which refuse whatever would make a GPU wait."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.losses import ALDRLoss, TrajectoryLoss
from framework.objectives.reduction import reduce_objectives
from modules import Classifier, CoTeaching, DomainAdaptation
from modules.domain_adaptation import CDAN, MDD

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autocast be, which does not know the device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def batch(**more: Tensor) -> dict[str, Tensor]:
    label, index = torch.randint(3, (12,)), torch.arange(12)
    return {"image": torch.randn(12, 1, 4, 4), "label": label, "index": index, **more}


def step(module: Any, data: dict[str, Tensor]) -> Tensor:
    """Return the loss of one step on the device without numbers, after its backward pass."""
    module._trainer = SimpleNamespace(current_epoch=3, global_step=7, callbacks=[])
    for loss in module.losses:
        loss.setup(12, 3, META)
    module.to(META)
    total = reduce_objectives(
        module.objectives({name: value.to(META) for name, value in data.items()})
    ).total
    total.backward()
    return total


SIZES: dict[str, Any] = {"num_classes": 3, "input_shape": (1, 4, 4), "widths": (4,)}


def test_a_number_is_refused() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros(3, device=META).sum().item()
    with pytest.raises(NotImplementedError, match="nonzero"):
        torch.zeros(3, device=META)[torch.zeros(3, device=META) > 0]


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), ALDRLoss()])
def test_a_classifier(criterion: nn.Module) -> None:
    assert step(Classifier(backbone="cnn", criterion=criterion, **SIZES), batch()).is_meta


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("halves", [True, False])
def test_co_teaching(halves: bool, scope: Any) -> None:
    module = CoTeaching(halves=halves, scope=scope, ramp_epochs=5, **SIZES)
    assert step(module, batch(clean_label=torch.randint(3, (12,)))).is_meta


@pytest.mark.parametrize("alignment", [None, CDAN(), MDD()])
def test_domain_adaptation(alignment: Any) -> None:
    module = DomainAdaptation(bottleneck=4, alignment=alignment, discriminator_width=4, **SIZES)
    assert step(module, batch(domain=torch.randint(2, (12,)))).is_meta


def test_the_memory_of_a_trajectory() -> None:
    loss = TrajectoryLoss(12, 3, lag_epochs=1, start_epoch=0, device=META)
    logits = torch.zeros(12, 3, device=META, requires_grad=True)
    for epoch in range(2):
        assert loss(logits, torch.arange(12, device=META), epoch).is_meta


def on_a_device(module: Any) -> Any:
    """Return a module that is to get its batches on another device than the CPU."""
    module._trainer = SimpleNamespace(predicting=False, training=True)
    return module.to(META)


def test_a_label_that_is_no_class_is_told_before_a_device_gets_it() -> None:
    data = batch(label=torch.tensor([0, 3] * 6))
    module = on_a_device(Classifier(**SIZES))
    with pytest.raises(
        ValueError, match=r"holds the label 3, but the model has the classes 0\.\.2"
    ):
        module.prepare_on_cpu(data)
    data["label"] = data["label"].where(data["label"] < 3, -100)
    module.prepare_on_cpu(data)
    module._trainer.predicting = True
    module.prepare_on_cpu({"image": data["image"]})


def test_only_the_source_has_labels_to_look_at() -> None:
    module = on_a_device(DomainAdaptation(bottleneck=4, discriminator_width=4, **SIZES))
    data = batch(domain=torch.arange(12) % 2, label=torch.tensor([0, -1] * 6))
    module.prepare_on_cpu(data)
    data["domain"] = 1 - data["domain"]
    with pytest.raises(ValueError, match="holds the label -1"):
        module.prepare_on_cpu(data)


def test_an_index_of_another_loader_is_looked_at_before_a_device_gets_it() -> None:
    module = on_a_device(Classifier(**SIZES))
    module._num_samples = 11
    with pytest.raises(IndexError, match="Index 11 lies outside the table of N=11 samples"):
        module.prepare_on_cpu(batch())
