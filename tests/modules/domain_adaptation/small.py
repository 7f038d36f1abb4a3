"""Two domains of 4 x 4 noise around the middles of three classes, and a network to match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import Subset

from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.layers import ReversalSchedule
from modules import DomainAdaptation
from tests.helpers.tiny import tiny_trainer

CLASSES = ("circle", "square", "triangle")
SHAPE = (1, 4, 4)
HALF = ReversalSchedule(low=0.5, high=0.5)
SHARED = {"network.body", "network.bottleneck"}


def images(label: Tensor, domain: Tensor, seed: int) -> Tensor:
    """Return images whose class is in the first row and whose domain shifts all of them."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(len(label), *SHAPE, generator=generator)
    x[torch.arange(len(label)), 0, 0, label] += 1.0
    return x + 0.5 * domain[:, None, None, None]


def rows(source: int, target: int, seed: int = 0, labeled: bool = True) -> dict[str, Tensor]:
    """Return fields of so many rows of each domain, in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    domain = torch.cat([torch.zeros(source), torch.ones(target)]).long()
    domain = domain[torch.randperm(len(domain), generator=generator)]
    label = torch.randint(3, (len(domain),), generator=generator)
    image = images(label, domain, seed)
    if not labeled:
        label = label.where(domain == 0, -1)
    return {"image": image, "label": label, "domain": domain}


def batch(source: int = 5, target: int = 4, seed: int = 0, **kwargs: Any) -> Batch:
    """Return a training batch in float64; of the target no label is known."""
    fields = rows(source, target, seed, labeled=False, **kwargs)
    fields["image"] = fields["image"].double()
    return {**fields, "index": torch.arange(source + target)}


def part(whole: Batch, counts: list[int], rank: int) -> Batch:
    """Return a rank's slice of a batch."""
    return {name: value.split(counts)[rank] for name, value in whole.items()}


class TwoDomains(DataModule):
    """40 + 40 training rows; 17 + 22 for validation, 9 of which are held out; 14 target rows to
    test."""

    has_domains = True
    num_classes = 3
    class_names = CLASSES
    input_shape = SHAPE

    def __init__(self, known: bool = True, batch_size: int = 16, **kwargs: Any) -> None:
        super().__init__(batch_size, **kwargs)
        self.train_set = ArrayDataset(**rows(40, 40, seed=1, labeled=False))
        val = rows(17, 22, seed=2, labeled=known)
        held_out = (val["domain"] == 1) & (val["domain"].cumsum(0) <= 9)
        self.val_set = ArrayDataset(**val, held_out=held_out)
        test = rows(0, 14, seed=3)
        self.test_set = ArrayDataset(**test, held_out=torch.zeros(14, dtype=torch.bool))
        self.predict_set = self.test_set
        # what training does not see
        guide = rows(0, 9, seed=4, labeled=False)
        self.guide_set = Subset(ArrayDataset(**guide), range(9))


def model(**kwargs: Any) -> DomainAdaptation:
    """Return a small network with everything on."""
    settings: dict[str, Any] = {
        "num_classes": 3,
        "input_shape": SHAPE,
        "widths": (8,),
        "bottleneck": 6,
        "discriminator_width": 5,
        "optimizer": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
    }
    seed_everything(0, verbose=False)
    return DomainAdaptation(**settings | kwargs)


def fit(
    folder: Path,
    *callbacks: Callback,
    module: DomainAdaptation | None = None,
    data: DataModule | None = None,
    loggers: Any = False,
    **settings: Any,
) -> tuple[DomainAdaptation, Trainer]:
    """Fit for two epochs of five steps."""
    module = model() if module is None else module
    trainer = tiny_trainer(folder, list(callbacks), loggers, **settings)
    trainer.fit(module, TwoDomains() if data is None else data)
    return module, trainer


def double(**kwargs: Any) -> DomainAdaptation:
    """Return a model in float64 whose gradient reversal is on from the start."""
    return model(**{"reversal": HALF, **kwargs}).double()


def reached(module: DomainAdaptation, term: Tensor) -> set[str]:
    """Return the parts of the module that a term has a gradient for."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    found = {n for n, g in zip(names, gradients, strict=True) if g is not None and g.any()}
    return {".".join(name.split(".")[: 2 if name.startswith("network") else 1]) for name in found}
