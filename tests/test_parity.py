"""Two ranks take the same steps as one process, for every config, overlay and precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework.utilities.tensor_archive import load_archive
from tests.helpers.configs import TERMS, arguments, base_of, one_of_many, overlays, systems
from tests.helpers.runs import (
    Record,
    fit,
    fit_on_two_ranks,
    fit_sharded,
    flatten,
    largest_difference,
    relative_difference,
    terms,
)

STEPS = 8
PLAIN_SGD = ["--model.optimizer=SGD", "--model.optimizer.lr=0.05"]
FLOAT64 = ["--trainer.precision=64-true", "--trainer.logger=false", f"--trainer.max_steps={STEPS}"]
# of the gradient's length in the first step, where bfloat16 rounds by up to 2**-9 of a number
ROUNDING = {"32-true": 1e-5, "bf16-mixed": 2**-7}
# many layers of batch norm, or over few values, make eight times as much of it, and exponentials of
# 50 times a cosine, or boxes that are matched by their overlap, more
ROUGH = {
    "bpjdet": 32,
    "classifier_mnist": 8,
    "face": 8,
    "face_orl": 8,
    "fewshot_slk_omniglot": 8,
    "gghl_timm": 8,
    "metric_omniglot": 32,
}
# systems with what makes their step a sum over rows: no statistics or draw of a batch
ROW_BY_ROW = {
    "classifier": ["--data.batch_size=64", "--model.backbone=mlp"],
    "depict": ["--data.batch_size=100", "--model.dropouts=[0,0,0]"],
    "nested": ["--data.batch_size=64", "--model.sigma=null"],
    "regressor": ["--data.batch_size=32"],
    "sae": ["--data.batch_size=64", "--model.denominator=fixed"],
}
# what FullyShardedStrategy refuses, or an optimizer under it
WHOLE = {
    "bpjdet",
    "depict",
    "fewshot_slk",
    "fewshot_slk_omniglot",
    "gns",
    "hypercleaning",
    "mfac",
    "pamc",
    "pamc_cora",
    "paretoda",
    "paretoda_mnist_usps",
    "sae",
    "sae_feature",
    "sae_mutual",
    "selftuning",
    "selftuning_cifar",
    "selftuning_lstm",
    "sso",
    "sso_convex",
}
STATES = ("state_dict", "optimizer_states")


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
    two, other = two_ranks(
        fit_on_two_ranks, [*args, f"--run_folder={folder / 'two'}"], gradients=True
    )
    assert_parity(one, two)
    # buffers are not sent
    assert largest_difference(two.parameters, other.parameters) == 0
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


@pytest.mark.parametrize("overlay", overlays("with/ddp", "with/fsdp2", "with/wandb"))
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


@pytest.mark.parametrize(
    "precision",
    [one_of_many("32-true", quick=False), one_of_many("bf16-mixed", quick=True)],
)
@pytest.mark.parametrize("system", systems("classifier", "sae"))
def test_precisions_keep_parity(system, precision, tmp_path, two_ranks, data_folder):
    args = [*arguments(system, data=data_folder), *PLAIN_SGD, "--trainer.logger=false"]
    args += [f"--trainer.precision={precision}", "--trainer.max_steps=1"]
    one = fit([*args, f"--run_folder={tmp_path / 'one'}"], gradients=True)
    two = two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path / 'two'}"], gradients=True)
    assert two[0].steps[0]["index"] == one.steps[0]["index"]
    gap = relative_difference(one.gradients[0], two[0].gradients[0])
    assert gap < ROUNDING[precision] * ROUGH.get(system, 1)


@pytest.mark.parametrize(
    "system", [one_of_many(name, quick=name in ("classifier", "sae")) for name in ROW_BY_ROW]
)
def test_four_batches_accumulated_on_two_ranks_equal_one_batch(system, tmp_path, two_ranks):
    args = [*arguments(system), *FLOAT64, *PLAIN_SGD]
    large, *options = ROW_BY_ROW[system]
    small = f"--data.batch_size={int(large.partition('=')[2]) // 4}"
    one = fit([*args, large, *options, f"--run_folder={tmp_path / 'one'}"], gradients=True)
    args += [small, *options, "--trainer.accumulate_grad_batches=4"]
    two = two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path / 'two'}"], gradients=True)
    assert_same_gradients(one, two[0])


@pytest.mark.parametrize(
    "configs", [("classifier", "with/ensloss"), one_of_many(("adversarial",), quick=False)]
)
def test_noise_of_accumulated_batches_keeps_parity(configs, tmp_path, two_ranks):
    args = [*arguments(*configs), *FLOAT64, "--trainer.accumulate_grad_batches=2"]
    one, _ = compare(args, tmp_path, two_ranks)
    assert len(one.steps) > len(one.gradients) > 1


def assert_same_gradients(one: Record, two: Record) -> None:
    """Compare every optimizer step's gradient, and the trained parameters, in float64."""
    assert len(one.gradients) > 1
    for left, right in zip(one.gradients, two.gradients, strict=True):
        assert largest_difference(left, right) < 1e-12
    for name in one.gradients[0]:
        assert float((one.parameters[name] - two.parameters[name]).abs().max()) < 1e-12


def test_ranks_without_shared_statistics_are_accumulated_batches(tmp_path, two_ranks):
    # three full batches of 64 rows, of which each rank takes one half
    args = [*arguments("classifier"), *FLOAT64, "--trainer.max_steps=3"]
    alone = ["--data.batch_size=32", "--trainer.accumulate_grad_batches=2"]
    one = fit([*args, *alone, f"--run_folder={tmp_path / 'one'}"], gradients=True)
    args += ["--model.sync_batchnorm=false", f"--run_folder={tmp_path / 'two'}"]
    two = two_ranks(fit_on_two_ranks, args, gradients=True)[0]
    assert_same_gradients(one, two)
    shared = fit([*args[:-2], f"--run_folder={tmp_path / 'shared'}"], gradients=True)
    assert largest_difference(shared.gradients[0], two.gradients[0]) > 1e-3


@pytest.mark.parametrize(
    "system", [s for s in systems("classifier", "face") if s.values[0] not in WHOLE]
)
def test_sharded_ranks_equal_one_process(system, tmp_path, two_ranks, data_folder):
    args = [*arguments(system, data=data_folder), *FLOAT64]
    one = fit([*args, f"--run_folder={tmp_path / 'one'}"], gradients=True)
    two = two_ranks(fit_sharded, [*args, f"--run_folder={tmp_path / 'two'}"], gradients=True)[0]
    assert_parity(one, two)
    files = [tmp_path / name / "checkpoints" / "last.ckpt" for name in ("one", "two")]
    left, right = ([flatten(c[key]) for key in STATES] for c in map(load_archive, files))
    for of_one, of_two in zip(left, right, strict=True):
        shapes = [{k: getattr(v, "shape", v) for k, v in x.items()} for x in (of_one, of_two)]
        assert shapes[0] == shapes[1]
