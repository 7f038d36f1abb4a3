"""Compiled networks keep their keys, their numbers and their place in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch

import trimtab
from framework.embedding.heads import CosFaceHead
from framework.objectives.errors import IncompatibleError
from framework.training.compilation import compile_networks
from tests.helpers.compilation import backend, fit_traced, fit_traced_on_two_ranks
from tests.helpers.configs import DOMAINS, arguments
from tests.helpers.runs import fit, largest_difference

ARGS = ["--trainer.precision=64-true", "--trainer.logger=false", "--model.lr_scheduler=null"]
CPU = torch.device("cpu")
REFUSED = {"sae"}


def whole_state(folder: Path) -> dict[str, Any]:
    """Return the last checkpoint of a run."""
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def test_either_goes_on_from_the_other(tmp_path: Path) -> None:
    args = [*arguments("classifier"), *ARGS]
    plain = fit([*args, "--trainer.max_steps=4", f"--run_folder={tmp_path / 'plain'}"])
    traced = fit_traced([*args, "--trainer.max_steps=4", f"--run_folder={tmp_path / 'traced'}"])
    assert largest_difference(plain.parameters, traced.parameters) < 1e-12
    keys = [whole_state(tmp_path / name)["state_dict"].keys() for name in ("plain", "traced")]
    assert list(keys[0]) == list(keys[1])
    ends = [
        run(
            [
                *args,
                "--trainer.max_steps=6",
                f"--ckpt_path={tmp_path / start}/checkpoints/last.ckpt",
            ]
        )
        for run, start in ((fit_traced, "plain"), (fit, "traced"))
    ]
    assert [len(end.steps) for end in ends] == [2, 2]
    assert largest_difference(ends[0].parameters, ends[1].parameters) < 1e-12


@pytest.mark.combination
def test_two_ranks_equal_one_process(tmp_path: Path, two_ranks: Callable[..., Any]) -> None:
    # with batch norm, whose statistics are sent in the middle of the network
    args = [*arguments("classifier"), *ARGS, "--trainer.max_steps=1", "--model.backbone=cnn"]
    args += ["--model.widths=[4]"]
    one = fit([*args, f"--run_folder={tmp_path / 'one'}"])
    two = two_ranks(fit_traced_on_two_ranks, [*args, f"--run_folder={tmp_path / 'two'}"])[0]
    assert largest_difference(one.parameters, two.parameters) < 1e-12


# torch's tracer looks at the gradient of features that a part is called with
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(name, marks=() if name in REFUSED else pytest.mark.combination)
        for name in DOMAINS
    ],
)
def test_every_domain_is_the_same_run_or_is_refused(
    config: str, tmp_path: Path, data_folder: Path
) -> None:
    args = [
        *arguments(config, data=data_folder),
        *ARGS,
        "--trainer.max_steps=3",
        "--model.optimizer=SGD",
    ]
    if config in REFUSED:
        with pytest.raises(IncompatibleError, match=r"model\.compile compiles networks.* false\."):
            fit_traced([*args, f"--run_folder={tmp_path}"])
        return
    runs = [run([*args, f"--run_folder={tmp_path / run.__name__}"]) for run in (fit, fit_traced)]
    assert largest_difference(runs[0].parameters, runs[1].parameters) < 1e-12


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_evaluation_takes_compiled_networks(stage: str, tmp_path: Path) -> None:
    args = [*arguments("classifier"), *ARGS, f"--run_folder={tmp_path}"]
    args += [f"--trainer.limit_{stage}_batches=1", "--model.compile=true"]
    torch._dynamo.reset()
    counters.clear()
    with backend("eager"):
        trimtab.main([stage, *args])
    assert counters["stats"]["unique_graphs"] > 0


def test_parts_with_parameters_are_compiled_once() -> None:
    module = nn.Module()
    module.network, module.criterion, module.empty = nn.Linear(2, 1), nn.MSELoss(), nn.ReLU()
    with backend("eager"):
        compile_networks(module, CPU)
        compiled = module.network._compiled_call_impl
        assert compiled is not None
        assert module.criterion._compiled_call_impl is module.empty._compiled_call_impl is None
        compile_networks(module, CPU)
    assert module.network._compiled_call_impl is compiled
    assert list(module.state_dict()) == ["network.weight", "network.bias"]


def test_what_lies_on_several_ranks_is_not_compiled() -> None:
    module = nn.Module()
    module.network, module.head = nn.Linear(2, 2), CosFaceHead(2, 5)
    module.head.shard(rank=0, world_size=2)
    with backend("eager"):
        compile_networks(module, CPU)
    assert module.network._compiled_call_impl is not None
    assert module.head._compiled_call_impl is None


def test_several_backward_passes_through_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functorch, "donated_buffer", True)
    module = nn.Module()
    module.network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, weight = torch.ones(4, 2), module.network[0].weight
    passes = [
        torch.autograd.grad(module.network(x)[:, column].sum(), weight)[0] for column in (0, 1)
    ]
    with backend("aot_eager"):
        compile_networks(module, CPU, several_backwards=True)
        y = module.network(x)
        for column, expected in enumerate(passes):
            (found,) = torch.autograd.grad(y[:, column].sum(), weight, retain_graph=True)
            torch.testing.assert_close(found, expected)


def test_a_machine_without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(IncompatibleError, match=r"needs a C\+\+ compiler.* 'no-such-compiler'"):
        compile_networks(nn.Sequential(nn.Linear(1, 1)), CPU)
