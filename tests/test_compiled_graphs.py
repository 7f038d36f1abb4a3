"""Networks and terms that `torch.compile` takes as one graph, which stays the same in each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from framework.adaptation.class_discriminators import class_discriminator_loss
from framework.clustering.reconstruction import layerwise_reconstruction_error
from framework.losses import (
    CSQMI,
    ClassificationLoss,
    CompSumLoss,
    ConditionalCSDivergenceLoss,
    CSIBLoss,
    LDRLoss,
    NormalizedLogisticLoss,
    TargetClassificationMimicking,
)
from modules.classifier.network import build_network
from modules.depict.network import DEPICTNetwork, MultiLayerDenoisingAE
from modules.domain_adaptation import CDAN, DANN, MDD
from modules.domain_adaptation.alignment import Alignment
from modules.domain_adaptation.network import AdaptationNetwork
from modules.gghl.network import GGHLNetwork
from modules.nested.network import NestedNetwork
from modules.regressor.network import RegressorNetwork
from modules.sae.activations import Activation, GatedReLU, JumpReLU, ReLUWithL1
from modules.sae.network import SparseAutoencoder

ROWS, CLASSES = 4, 3
LABEL = torch.tensor([0, 1, 2, 1])
DOMAIN = torch.tensor([0, 0, 1, 1])
GGHL_SIZES: dict[str, Any] = {"widths": [4] * 5, "neck_width": 4}
Step = Callable[..., Any]


def normal(*shape: int) -> Tensor:
    """Return the same numbers in each call."""
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))


def built(alignment: Alignment) -> nn.Module:
    """Return an alignment with its networks."""
    alignment.build(num_features=4, num_classes=CLASSES, width=4)
    return alignment


class Rebuild(nn.Module):
    """What a step of an autoencoder with a dense code computes."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.sae = SparseAutoencoder(4, 8, activation, groups=[0.5, 0.5])

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return reconstructions and penalties."""
        encoding = self.sae.encode_batch(x)
        penalties = self.sae.selection.penalties(self.sae, x, encoding.pre_acts, encoding.code)
        return self.sae.reconstructions(encoding.code, x), penalties


class DEPICTStep(nn.Module):
    """What a step of DEPICT computes, but for its targets."""

    def __init__(self) -> None:
        super().__init__()
        autoencoder = MultiLayerDenoisingAE((1, 8, 8), CLASSES, [4], [3], [1], [0], [0.1, 0.1])
        self.network = DEPICTNetwork(autoencoder, CLASSES)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction error and the logits."""
        layers, logits = self.network(image)
        clean = [layer.detach() for layer in layers.clean[:-1]]
        return layerwise_reconstruction_error(clean, layers.decoded), logits


class AdaptationStep(nn.Module):
    """What a step of domain adaptation computes after its network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = AdaptationNetwork(mlp(), 4, 4)
        self.mimicking = TargetClassificationMimicking()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the terms of mimicking and of the discriminators."""
        features = self.network(image)[1]
        refined, of_target = self.network.refined(features)
        term = class_discriminator_loss(of_target, LABEL, DOMAIN, refined)
        return self.mimicking(refined), term


def mlp() -> Any:
    """Return a small classifier."""
    return build_network("mlp", CLASSES, (1, 8, 8), [8])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Sequence[Tensor]]] = {
    "classifier, mlp": (mlp, [normal(1, 8, 8)]),
    "classifier, cnn": (
        lambda: build_network("cnn", CLASSES, (1, 8, 8), [4, 4]),
        [normal(1, 8, 8)],
    ),
    "classifier, alexnet": (
        lambda: build_network("alexnet", CLASSES, (3, 16, 16), [4, 4, 4, 4, 4, 8, 8]),
        [normal(3, 16, 16)],
    ),
    "classifier, timm": (
        lambda: build_network("test_resnet", CLASSES, (3, 32, 32), []),
        [normal(3, 32, 32)],
    ),
    "nested": (lambda: NestedNetwork(mlp(), 2.0, 0.0, 0.0), [normal(1, 8, 8)]),
    "nested, dropout": (lambda: NestedNetwork(mlp(), None, 0.0, 0.5), [normal(1, 8, 8)]),
    "regressor": (lambda: RegressorNetwork(5, 2, [8], 4, [8]), [normal(5)]),
    "depict": (DEPICTStep, [normal(1, 8, 8)]),
    "gghl, pyramid": (lambda: GGHLNetwork(CLASSES, **GGHL_SIZES), [normal(3, 64, 64)]),
    "gghl, top down": (
        lambda: GGHLNetwork(CLASSES, neck="top_down", drop_block=0.1, **GGHL_SIZES),
        [normal(3, 64, 64)],
    ),
    "gghl, timm": (
        lambda: GGHLNetwork(CLASSES, backbone="test_resnet", neck_width=4),
        [normal(3, 64, 64)],
    ),
    "adaptation": (AdaptationStep, [normal(1, 8, 8)]),
    **{
        name: (lambda made=alignment: built(deepcopy(made)), [normal(4), normal(3), DOMAIN, 0.3])
        for name, alignment in {"dann": DANN(), "cdan": CDAN(True), "mdd": MDD()}.items()
    },
    **{
        f"sae, {type(activation).__name__}": (
            lambda made=activation: Rebuild(deepcopy(made)),
            [normal(4)],
        )
        for activation in (ReLUWithL1(), JumpReLU(), GatedReLU())
    },
}
QUICK = {"nested", "depict", "dann", "sae, JumpReLU"}


def check_one_graph(step: nn.Module, inputs: Sequence[Any]) -> None:
    """Compare three calls in one graph with three that are not compiled."""
    torch._dynamo.reset()
    expected = [tree_leaves(call(*inputs)) for call in [deepcopy(step)] * 3]
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = [tree_leaves(compiled(*inputs)) for _ in range(3)]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(True, id="training"),
        pytest.param(False, id="evaluation", marks=pytest.mark.combination),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.combination)
        for name in NETWORKS
    ],
)
def test_a_network_is_one_graph(name: str, training: bool) -> None:
    make, inputs = NETWORKS[name]
    check_one_graph(make().train(training), inputs)


OTHER_LOSSES = (
    CompSumLoss(),
    NormalizedLogisticLoss(),
    CSQMI(),
    CSIBLoss(),
    ConditionalCSDivergenceLoss(),
)


@pytest.mark.parametrize(
    "loss",
    [LDRLoss(), *(pytest.param(loss, marks=pytest.mark.combination) for loss in OTHER_LOSSES)],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_is_one_graph(loss: Any) -> None:
    torch._dynamo.reset()
    given = {"inputs": normal(2), "features": normal(3)}
    needs = {name: given[name] for name in loss.needs}
    pair = (normal(CLASSES), LABEL) if isinstance(loss, ClassificationLoss) else (normal(),) * 2
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = [compiled(*pair, **needs) for _ in range(3)]
    for value in found:
        torch.testing.assert_close(value, loss(*pair, **needs))
