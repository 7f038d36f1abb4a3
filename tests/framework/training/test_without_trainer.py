"""Modules outside a Trainer: loaded from a checkpoint, inspected, called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from framework.sparse_coding.selection import TokenChoice
from modules.classifier.module import Classifier
from modules.coteaching.module import CoTeaching
from modules.depict.module import DEPICT
from modules.domain_adaptation.module import DomainAdaptation
from modules.gghl.module import GGHL
from modules.nested.module import NestedClassifier
from modules.regressor.module import Regressor
from modules.sae.module import SparseAutoencoderModule

SMALL_CNN: dict[str, Any] = {
    "num_classes": 3,
    "input_shape": (1, 8, 8),
    "backbone": "cnn",
    "widths": (2, 2),
}
IMAGE = {"image": torch.rand(2, 1, 8, 8)}
MODULES: dict[str, tuple[type[LightningModule], dict[str, Any], dict[str, torch.Tensor]]] = {
    "classifier": (Classifier, SMALL_CNN, IMAGE),
    "nested": (NestedClassifier, SMALL_CNN, IMAGE),
    "coteaching": (CoTeaching, SMALL_CNN, IMAGE),
    "regressor": (Regressor, {"num_inputs": 4, "widths": (3,)}, {"input": torch.rand(2, 4)}),
    "gghl": (
        GGHL,
        {"num_classes": 3, "backbone": "plain", "widths": (2,) * 5, "neck_width": 2},
        {"image": torch.rand(2, 3, 32, 32)},
    ),
    "depict": (DEPICT, {"num_clusters": 3, "input_shape": (1, 8, 8)}, IMAGE),
    "adaptation": (DomainAdaptation, SMALL_CNN, IMAGE),
    "sae": (
        SparseAutoencoderModule,
        {"d_in": 4, "d_sae": 8, "selection": TokenChoice(k=2)},
        {"activation": torch.rand(2, 4)},
    ),
}


@pytest.fixture(params=list(MODULES))
def case(request: pytest.FixtureRequest) -> Any:
    kind, arguments, batch = MODULES[request.param]
    torch.manual_seed(0)
    return kind, arguments, kind(**arguments).eval(), batch


def test_load_from_checkpoint(case, tmp_path):
    kind, arguments, module, _ = case
    checkpoint = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.6.0"}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    loaded = kind.load_from_checkpoint(tmp_path / "a.ckpt", **arguments, weights_only=True)
    assert type(loaded) is kind
    assert loaded.state_dict().keys() == module.state_dict().keys()
    for name, value in loaded.state_dict().items():
        if torch.is_tensor(value):
            assert torch.equal(value, module.state_dict()[name])


def test_every_property_can_be_read(case):
    _, _, module, _ = case
    ours = [c for c in type(module).__mro__ if c.__module__.startswith(("framework.", "modules."))]
    names = {n for c in ours for n, value in vars(c).items() if isinstance(value, property)}
    assert {"stage", "metrics", "objectives_callbacks", "losses"} <= names
    for name in names:
        getattr(module, name)
    assert module.stage == "val"
    assert len(module.metrics) == 0
    assert module.objectives_callbacks == []


def test_all_but_what_lightning_itself_keeps_for_a_trainer_can_be_read(case):
    _, _, module, _ = case
    plain = LightningModule()
    refused = {name for name in dir(plain) if not readable(plain, name)}
    assert "trainer" in refused
    assert {name for name in dir(module) if not readable(module, name)} == refused


def readable(module: LightningModule, name: str) -> bool:
    """Return whether ``inspect.getmembers`` and ``torch.jit.trace`` can look at an attribute."""
    try:
        hasattr(module, name)
    except RuntimeError:
        return False
    return True


def test_it_predicts(case):
    _, _, module, batch = case
    with torch.no_grad():
        found = module.predict_step(batch, 0)
    assert len(found) > 0
