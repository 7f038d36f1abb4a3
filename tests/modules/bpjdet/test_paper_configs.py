"""The published settings: mean losses take the steps of the paper's sums."""

import pytest
import torch
import yaml

from framework.optim.parameter_groups import decay_norm_bias_groups
from framework.schedules.momentum_warmup import MomentumWarmupCosine
from tests.helpers.configs import PAPERS
from tests.helpers.runs import CONFIGS

NAMES = [name for name in PAPERS if name.startswith("paper/bpjdet")]
BATCH, STEPS, EPOCHS = 64, 200, {"paper/bpjdet_bodyhands": 100}


def trained(optimizer, schedule, factor, micro_batches):
    """Return the parameters after steps on batches whose mean losses are multiplied."""
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Linear(3, 2).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    sgd = torch.optim.SGD(decay_norm_bias_groups(network), **optimizer)
    rates = MomentumWarmupCosine(sgd, STEPS, **schedule)
    for _ in range(8):
        rows = torch.rand(BATCH, 3, generator=generator).double()
        sgd.zero_grad()
        for some in rows.chunk(micro_batches):
            (factor * network(some).square().mean(0).sum() / 100).backward()
        sgd.step()
        rates.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_a_mean_takes_the_steps_of_the_papers_sum(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model, data, trainer = config["model"]["init_args"], config["data"], config["trainer"]
    accumulated = trainer["accumulate_grad_batches"]
    assert accumulated * data["init_args"]["batch_size"] == BATCH
    assert trainer["max_epochs"] == EPOCHS.get(name, 150)
    schedule = model["lr_scheduler"]["init_args"]
    assert schedule["warmup_fraction"] == 3 / trainer["max_epochs"]
    # Lightning divides by the number of batches
    ours = trained(model["optimizer"]["init_args"], schedule, 1 / accumulated, accumulated)
    paper = {"lr": 0.01, "momentum": 0.937, "nesterov": True, "weight_decay": 5e-4}
    theirs = trained(paper, {**schedule, "bias_lr": 0.1}, BATCH / accumulated, accumulated)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=0)
