"""What the ranks hold parts of is trained, saved and continued as if one process held all of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from callbacks import MESA, EMAWeights
from framework.gradients import WeightedSum
from framework.objectives.errors import IncompatibleError
from framework.runs.fully_sharded import FullyShardedStrategy, large_elements
from framework.training.compatibility import check_sharding
from modules import SparseAutoencoderModule
from tests.helpers.configs import arguments
from tests.helpers.runs import fit, fit_on_two_ranks, fit_sharded, largest_difference

CLASSIFIER = [*arguments("classifier"), "--trainer.logger=false"]
FLOAT64 = "--trainer.precision=64-true"


class Sizes(Callback):
    """Notes how many numbers this rank holds, of parameters and of the optimizer's states."""

    def __init__(self) -> None:
        self.held = self.whole = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Count after the only step."""
        for parameter in pl_module.parameters():
            self.whole += parameter.numel()
            self.held += getattr(parameter, "_local_tensor", parameter).numel()


def sizes_of_sharded(args: list[str]) -> tuple[int, int]:
    """Return how many numbers this rank holds between steps, and how many there are."""
    sizes = Sizes()
    fit([*args], [sizes])
    return sizes.held, sizes.whole


@pytest.mark.parametrize("first", ["one process", "sharded"])
def test_the_other_continues_a_checkpoint(first: str, tmp_path: Path, two_ranks: Any) -> None:
    def run(way: str, steps: int, *more: str) -> Any:
        # a schedule over the run's length would be another one in a longer run
        args = [*CLASSIFIER, FLOAT64, "--model.lr_scheduler=null", f"--trainer.max_steps={steps}"]
        args += more
        return fit(args) if way == "one process" else two_ranks(fit_sharded, args)[0]

    other = "sharded" if first == "one process" else "one process"
    run(first, 6, f"--run_folder={tmp_path / 'first'}")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    resumed = run(other, 10, f"--ckpt_path={last}", f"--run_folder={tmp_path / 'second'}")
    whole = run("one process", 10, f"--run_folder={tmp_path / 'whole'}")
    assert largest_difference(resumed.parameters, whole.parameters) < 1e-12
    states = [record.optimizer["state"] for record in (resumed, whole)]
    for left, right in zip(*(state.values() for state in states), strict=True):
        assert largest_difference(left, right) < 1e-12


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=0.1"],
        pytest.param(
            ["--trainer.gradient_clip_val=0.01", "--trainer.gradient_clip_algorithm=value"],
            marks=pytest.mark.combination,
        ),
        pytest.param(["--config=configs/with/saf.yaml"], marks=pytest.mark.combination),
        pytest.param(["--config=configs/with/lion.yaml"], marks=pytest.mark.combination),
        pytest.param(["--model.optimizer=LionK"], marks=pytest.mark.combination),
        pytest.param(["--model.sync_batchnorm=false"], marks=pytest.mark.combination),
    ],
)
def test_options_mean_what_they_mean_to_ddp(
    options: list[str], tmp_path: Path, two_ranks: Any
) -> None:
    args = [*CLASSIFIER, FLOAT64, "--trainer.max_steps=6", *options]
    ddp = two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path / 'a'}"], gradients=True)[0]
    sharded = two_ranks(fit_sharded, [*args, f"--run_folder={tmp_path / 'b'}"], gradients=True)[0]
    for left, right in zip(ddp.gradients, sharded.gradients, strict=True):
        assert largest_difference(left, right) < 1e-12


def test_bfloat16_is_that_of_ddp(tmp_path: Path, two_ranks: Any) -> None:
    args = [*CLASSIFIER, "--trainer.precision=bf16-mixed", "--trainer.max_steps=4"]
    ddp = two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path / 'a'}"])[0]
    sharded = two_ranks(fit_sharded, [*args, f"--run_folder={tmp_path / 'b'}"])[0]
    assert largest_difference(ddp.parameters, sharded.parameters) < 1e-6


def test_the_overlay_gives_each_rank_a_half(tmp_path: Path, two_ranks: Any) -> None:
    args = [*CLASSIFIER, "--config=configs/with/fsdp2.yaml", "--trainer.max_steps=1"]
    (held, whole), (others, _) = two_ranks(sizes_of_sharded, [*args, f"--run_folder={tmp_path}"])
    assert held + others == whole
    assert 0.3 * whole < held < 0.7 * whole


def test_large_elements_without_what_inner_ones_hold() -> None:
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    network = nn.Sequential(block, nn.ModuleList([nn.Linear(8, 8)]), nn.Linear(2, 2))
    assert list(large_elements(network, 72)) == [block[0], network[1][0]]
    # of the block, 18 numbers are left
    assert list(large_elements(network, 18)) == [block[0], block[2], network[1][0]]
    assert list(large_elements(network, 10**6)) == []


def test_what_needs_whole_parameters_is_refused() -> None:
    def check(module: nn.Module, *callbacks: Callback, precision: str = "32-true", **more: Any):
        strategy = FullyShardedStrategy()
        trainer = SimpleNamespace(strategy=strategy, callbacks=callbacks, precision=precision)
        module.__dict__ |= {"trainer": trainer, **more}
        check_sharding(module)  # type: ignore[arg-type]

    check(nn.Linear(1, 1))
    with pytest.raises(IncompatibleError, match=r"^MESA reads or changes whole .* strategy ddp\.$"):
        check(nn.Linear(1, 1), MESA())
    with pytest.raises(IncompatibleError, match=r"^EMAWeightAveraging reads"):
        check(nn.Linear(1, 1), EMAWeightAveraging())
    with pytest.raises(IncompatibleError, match=r"^EMAWeights reads"):
        check(nn.Linear(1, 1), EMAWeights())
    with pytest.raises(IncompatibleError, match=r"^SparseAutoencoderModule reads"):
        check(nn.Sequential(SparseAutoencoderModule(d_in=2, d_sae=64)))
    with pytest.raises(IncompatibleError, match=r"^WeightedSum combines whole gradients"):
        check(nn.Linear(1, 1), gradient_combiner=WeightedSum())
    with pytest.raises(IncompatibleError, match="use bf16-mixed"):
        check(nn.Linear(1, 1), precision="16-mixed")


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="min_parameters"):
        FullyShardedStrategy(min_parameters=-1)
