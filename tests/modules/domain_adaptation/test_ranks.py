"""Two ranks do what one process does: terms, gradients, metrics and whole runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum, rank, world_size
from framework.layers import convert_sync_batchnorm
from framework.objectives.reduction import reduce_objectives
from framework.utilities.evaluation_mode import evaluation_mode
from modules import DomainAdaptation
from modules.domain_adaptation.cdan import CDAN
from modules.domain_adaptation.mdd import MDD
from tests.modules.domain_adaptation.small import HALF, TwoDomains, batch, fit, model, part

VARIANTS: dict[str, dict[str, Any]] = {
    "everything": {},
    "cdan, bottleneck off": {"alignment": CDAN(entropy=True), "bottleneck": None},
    "mdd, unrefined": {"alignment": MDD(), "refine": False},
    "source": {"alignment": None, "mimicking": 0.0},
}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def step(module: DomainAdaptation, counts: list[int], sync: bool, sort: bool = False) -> Any:
    """Return global terms and gradients of a batch, also those of the guide."""
    if sync:
        convert_sync_batchnorm(module)
    else:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.eval()
    whole = batch(5, 4)
    if sort:
        order = whole["domain"].argsort(stable=True)
        whole = {name: value[order] for name, value in whole.items()}
    reduced = reduce_objectives(module.objectives(part(whole, counts, rank())))
    gradients = torch.autograd.grad(reduced.total, list(module.parameters()))
    with evaluation_mode(module):
        guide = module.guide_objectives(part(batch(0, 9, seed=3), counts, rank()))
        held_out = reduce_objectives(guide).total
        shared = torch.autograd.grad(held_out, module.shared_parameters())
    terms = {**reduced.terms, "guide": held_out}
    return (
        {name: average(value) for name, value in terms.items()},
        [average(gradient) for gradient in (*gradients, *shared)],
    )


def average(value: Tensor) -> Tensor:
    return all_reduce_sum(value) / world_size()


@pytest.mark.parametrize("sync", [True, False])
# sorted, the first rank has rows of the source alone
@pytest.mark.parametrize("counts", [[6, 3], [9, 0], [1, 8], [5, 4]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_that_of_one_process(variant, counts, sync, two_ranks) -> None:
    module = model(reversal=HALF, optimizer=torch.optim.SGD, **VARIANTS[variant]).double()
    sort = counts == [5, 4]
    terms, gradients = step(copy.deepcopy(module), [9], sync, sort)
    assert len(terms) == {"everything": 5, "source": 2}.get(variant, len(terms))
    for found, theirs in two_ranks(step, module, counts, sync, sort):
        for name, value in terms.items():
            torch.testing.assert_close(found[name], value, **CLOSE)
        for ours, whole in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(ours, whole, **CLOSE)


class Keep(Callback):
    """Keeps every number that is logged, and the figures' features."""

    def on_fit_end(self, trainer, pl_module):
        self.logged = {n: float(v) for n, v in trainer.callback_metrics.items()}
        features = [pl_module.metric_values[f"{d}_features"] for d in ("source", "target")]
        self.codes = [kept.code.double() for kept in (*pl_module.before, *features)]


def run(folder: Path, **kwargs: Any) -> Any:
    """Fit in float64, in batches of 13 rows of which the last of an epoch has 2."""
    keep, ranks = Keep(), {}
    if world_size() > 1:
        ranks = {"devices": 2, "strategy": "ddp"}
    module = model(reversal=HALF, **kwargs)
    data = TwoDomains(batch_size=13, eval_batch_size=5)
    fit(folder, keep, module=module, data=data, precision="64-true", **ranks)
    state = {n: v.detach().clone() for n, v in module.network.state_dict().items()}
    return keep.logged, keep.codes, state


@pytest.mark.parametrize("variant", ["everything", "cdan, bottleneck off"])
def test_a_run_is_that_of_one_process(variant, tmp_path: Path, two_ranks) -> None:
    logged, codes, state = run(tmp_path / "one", **VARIANTS[variant])
    assert {"val/guide_loss", "val/accuracy", "val/discriminator_accuracy"} <= set(logged)
    for found, theirs, weights in two_ranks(run, tmp_path / "two", **VARIANTS[variant]):
        assert found == pytest.approx(logged, abs=1e-6)
        for name, value in state.items():
            torch.testing.assert_close(weights[name], value, **CLOSE)
        for ours, whole in zip(theirs, codes, strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)
