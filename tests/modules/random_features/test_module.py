"""Random-feature regression: one run is the curve, its references are exact."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

import trimtab
from datamodules import Digits, LabelNoise
from framework.dynamics.random_features import condition_number, descended, exact_solution
from framework.objectives.errors import IncompatibleError
from modules import RandomFeatures
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET


def digits(**options: object) -> Digits:
    noise = LabelNoise("symmetric", rate=0.2)
    sizes = {"val_size": 60, "test_size": 1697, "batch_size": 40}
    return Digits(label_noise=noise, **(sizes | options))  # type: ignore[arg-type]


def fit(
    model: RandomFeatures,
    data: Digits,
    steps: int,
    checkpoint: Path | None = None,
    **options: object,
) -> Trainer:
    trainer = Trainer(
        max_epochs=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        precision="64-true",
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(model, data, ckpt_path=checkpoint)
    return trainer


def model(**options: object) -> RandomFeatures:
    torch.manual_seed(0)
    sizes = {"num_classes": 10, "input_shape": (1, 8, 8), "widths": (20, 40, 90), "draws": 2}
    chosen = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1.0)}
    return RandomFeatures(**(sizes | chosen | options))  # type: ignore[arg-type]


def rows_of(data: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    batch = data.train_set.dataset.batch(data.train_set.indices)  # type: ignore[union-attr]
    targets = torch.nn.functional.one_hot(batch["label"], 10).double()
    return batch["image"].flatten(1).double(), targets


@pytest.mark.parametrize("normalize", [False, True])
def test_a_learning_rate_of_1_is_descent_by_1_over_l_at_every_width(normalize: bool) -> None:
    net, data = model(normalize=normalize), digits()
    fit(net, data, steps=7)
    inputs, targets = rows_of(data)
    network = net.network
    torch.testing.assert_close(network.mean, inputs.mean(0))
    for place, block in enumerate(network.features(inputs)):
        for draw, z in enumerate(block):
            weights = network.heads[place][draw] / network.root_curvature[place, draw]
            torch.testing.assert_close(weights, descended(z, targets, 7), rtol=1e-6, atol=1e-9)
            exact = exact_solution(z, targets)
            torch.testing.assert_close(network.exact_heads[place][draw], exact)
            torch.testing.assert_close(network.condition[place, draw], condition_number(z))
    if normalize:
        columns = torch.cat([z for block in network.features(inputs) for z in block], dim=1)
        torch.testing.assert_close(columns.square().mean(0), torch.ones(300).double())


def test_the_learning_rate_is_that_of_the_loss_itself_without_unit_curvature() -> None:
    net, data = (
        model(unit_curvature=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.01)),
        digits(),
    )
    fit(net, data, steps=5)
    inputs, targets = rows_of(data)
    z = net.network.features(inputs)[2][1]
    torch.testing.assert_close(net.network.heads[2][1], descended(z, targets, 5, step=0.01))


@pytest.mark.filterwarnings("ignore:There is no peak to be seen")
def test_the_start_is_a_scale_of_the_heads_as_they_act() -> None:
    start = model(init_scale=3.0, widths=(900,), draws=2)
    assert float(start.network.heads[0].detach().square().mean()) * 900 == pytest.approx(
        9, rel=0.05
    )
    before = start.network.heads[0].detach().double()
    fit(start, digits(), steps=1, limit_train_batches=0)
    now = start.network.heads[0] / start.network.root_curvature[0][:, None, None]
    torch.testing.assert_close(now.detach(), before)


def test_evaluation_measures_every_head_and_keeps_every_budget() -> None:
    net, data = model(), digits()
    fit(net, data, steps=4, check_val_every_n_epoch=2)
    assert [budget.step for budget in net.budgets] == [2, 4]
    batch = data.val_set.dataset.batch(data.val_set.indices)  # type: ignore[union-attr]
    inputs, labels = batch["image"].flatten(1).double(), batch["label"]
    targets = torch.nn.functional.one_hot(labels, 10)
    outputs = net.network(inputs).detach()
    last = net.budgets[-1].values
    torch.testing.assert_close(last["mse"], (outputs - targets).square().sum(-1).mean(-1))
    wrong = (outputs.argmax(-1) != labels).double().mean(-1)
    torch.testing.assert_close(last["error"], wrong)
    exact = net.network.exact_outputs(net.network.features(inputs))
    torch.testing.assert_close(last["exact_mse"], (exact - targets).square().sum(-1).mean(-1))
    # the exact solution fits 40 rows from 40 features on, descent does not yet
    train_inputs, train_targets = rows_of(data)
    fitted = net.network.exact_outputs(net.network.features(train_inputs))
    residual = (fitted - train_targets).square().sum(-1).mean(-1)
    assert float(residual[1:].max()) < 1e-15
    assert float(residual[0].min()) > 1e-3
    assert float(last["train_mse"].min()) > 1e-2
    predicted = net.predict(batch)
    torch.testing.assert_close(predicted["output"], outputs[2].mean(0).to(predicted["output"]))


def test_a_resumed_run_goes_on_with_the_features_and_the_budgets(tmp_path: Path) -> None:
    whole, first, second = model(), model(), model()
    fit(whole, digits(), steps=4)
    fit(first, digits(), steps=2).save_checkpoint(tmp_path / "two.ckpt")
    with torch.no_grad():
        second.network.first.zero_()  # what a network of another seed has is replaced
    fit(second, digits(), steps=4, checkpoint=tmp_path / "two.ckpt")
    assert [budget.step for budget in second.budgets] == [1, 2, 3, 4]
    for found, expected in zip(second.budgets, whole.budgets, strict=True):
        for name, value in expected.values.items():
            assert torch.equal(found.values[name], value), name
    assert all(
        torch.equal(found, expected)
        for found, expected in zip(
            second.network.state_dict().values(), whole.network.state_dict().values(), strict=True
        )
    )


def test_a_run_has_the_figure_the_table_and_the_peak(tmp_path: Path) -> None:
    trimtab.main(["fit", *arguments("double_descent"), *QUIET, f"--run_folder={tmp_path}"])
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/peak")]
    assert len(rows) == 3
    assert float(rows[-1]["val/exact_peak"]) > 1
    assert {"val/mse_at_50", "val/error_at_120", "val/train_mse", "val/error"} <= set(rows[-1])
    assert (tmp_path / "figures" / "val_double_descent.png").exists()
    table = (tmp_path / "tables" / "val_widths.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == ["10", "50", "120"]


def test_widths_without_a_peak_are_warned_of() -> None:
    said = (
        r"among the widths \[10, 90\] none is near the 40 .* such as to \[10, 20, 30, 38, 40, 42, "
    )
    with pytest.warns(UserWarning, match=said):
        fit(model(widths=(10, 90)), digits(), steps=1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="widths must ascend"):
        model(widths=(40, 20))
    with pytest.raises(ValueError, match=r"predict_width must be one of \[20, 40, 90\], got 30"):
        model(predict_width=30)
    with pytest.raises(ValueError, match=r"RandomFeatures.for_data"):
        RandomFeatures()
    with pytest.raises(IncompatibleError, match="mixup"):
        fit(model(), digits(mixup=0.2), steps=1)
    data = digits()
    data.setup("fit")
    trainer = Trainer(logger=False, enable_checkpointing=False, max_epochs=1, accelerator="cpu")
    with pytest.raises(IncompatibleError, match="trimtab DataModule"):
        trainer.fit(model(), data.train_dataloader(), data.val_dataloader())
