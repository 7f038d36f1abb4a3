"""Two ranks take the same steps as one process, for every config and overlay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.configs import TERMS, arguments, base_of, one_of_many, overlays, systems
from tests.helpers.runs import Record, fit, fit_on_two_ranks, largest_difference, terms

STEPS = 8
PLAIN_SGD = ["--model.optimizer=SGD", "--model.optimizer.lr=0.05"]
FLOAT64 = ["--trainer.precision=64-true", "--trainer.logger=false", f"--trainer.max_steps={STEPS}"]


def assert_parity(one: Record, two: Record) -> None:
    """Compare two records: the same samples, terms, gradients and parameters."""
    assert [s["index"] for s in two.steps] == [s["index"] for s in one.steps]
    for left, right in zip(one.steps, two.steps, strict=True):
        assert terms(left) == pytest.approx(terms(right), abs=1e-6)
    masked = 0
    for left, right in zip(one.gradients, two.gradients, strict=True):
        assert largest_difference(left, right) < 1e-6
    for name, value in one.parameters.items():
        gap = (value.double() - two.parameters[name].double()).abs()
        if name in one.gradients[0]:
            # sign-type optimizers turn rounding into full steps where a gradient should be zero
            pairs = zip(one.gradients, two.gradients, strict=True)
            sizes = [torch.maximum(g[name].abs(), h[name].abs()) for g, h in pairs]
            tiny = sum((size > 0) & (size < 1e-12) for size in sizes) > 0
            masked += int(tiny.sum())
            gap = gap[~tiny]
        assert gap.numel() == 0 or float(gap.max()) < 1e-6, name
    total = sum(value.numel() for value in one.parameters.values())
    assert masked < total / 2, f"{masked} of {total} entries have no gradient to speak of"


def compare(args: list[str], folder: Path, two_ranks) -> tuple[Record, Record]:
    """Run on one process and on two ranks."""
    one = fit([*args, f"--run_folder={folder / 'one'}"], gradients=True)
    two = two_ranks(fit_on_two_ranks, [*args, f"--run_folder={folder / 'two'}"], gradients=True)[0]
    assert_parity(one, two)
    return one, two


@pytest.mark.parametrize(
    "optimizer",
    [one_of_many(PLAIN_SGD, quick=False), one_of_many([], quick=True)],
    ids=["sgd", "own"],
)
@pytest.mark.parametrize("system", systems())
def test_two_ranks_equal_one_process(system, optimizer, tmp_path, two_ranks, data_folder):
    one, _ = compare(
        [*arguments(system, data=data_folder), *FLOAT64, *optimizer], tmp_path, two_ranks
    )
    assert len(one.steps) == STEPS


@pytest.mark.parametrize("overlay", overlays("with/ddp", "with/wandb"))
def test_overlays_keep_parity(overlay, tmp_path, two_ranks):
    one, two = compare([*arguments(base_of(overlay), overlay), *FLOAT64], tmp_path, two_ranks)
    if overlay in TERMS:
        for record in (one, two):
            assert terms(record.steps[-1])[TERMS[overlay]] > 1e-9


def test_stacked_overlays_keep_parity(tmp_path, two_ranks):
    stack = ("with/saf", "with/lion", "with/aldr", "with/noise")
    compare([*arguments("classifier", *stack), *FLOAT64], tmp_path, two_ranks)


@pytest.mark.combination
def test_drop_block_keeps_parity(tmp_path, two_ranks):
    neck = ["--model.neck=top_down", "--model.drop_block=0.3"]
    args = [*arguments("gghl"), *FLOAT64, *neck]
    one, _ = compare(args, tmp_path, two_ranks)
    plain = fit([*args, "--model.drop_block=0", f"--run_folder={tmp_path / 'plain'}"])
    assert terms(plain.steps[0]) != pytest.approx(terms(one.steps[0]), abs=1e-6)
