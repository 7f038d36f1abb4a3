"""A density learned by its energy: from noise, for any loss, and for tables and images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

from datamodules import Digits, OutlierClasses, PlanarDensities
from framework.energy import (
    CompositionalMLELoss,
    ContrastiveDivergenceLoss,
    EnergyLoss,
    MixtureNoise,
    NCELoss,
    NormalNoise,
    UniformNoise,
)
from framework.objectives.errors import IncompatibleError
from modules import EnergyModel


def quiet_trainer(epochs: int) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


def trained(
    data: Any, epochs: int = 3, lr: float = 0.01, **options: Any
) -> tuple[EnergyModel, Trainer]:
    torch.manual_seed(0)
    arguments = {"widths": (32, 32), "grid_size": 50, "normalizer_draws": 500, **options}
    model = EnergyModel.for_data(
        data, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=lr), **arguments
    )
    trainer = quiet_trainer(epochs)
    trainer.fit(model, data)
    return model, trainer


def eight(**options: Any) -> PlanarDensities:
    return PlanarDensities(**{"num_points": 512, "batch_size": 128, "outliers": 0.5, **options})


def test_it_beats_its_noise_by_half_a_nat_and_tells_outliers() -> None:
    model, _ = trained(eight(num_points=1024), epochs=15, lr=0.02, draws=4)
    values = {name: float(model.metric_values[name]) for name in ("nll", "nll/noise", "nll/true")}
    assert values["nll"] < values["nll/noise"] - 0.5
    # no density beats the true one by more than the chance of 256 rows
    assert values["nll"] > values["nll/true"] - 0.1
    assert float(model.metric_values["auroc"]) > float(model.metric_values["auroc/noise"]) + 0.05


@pytest.mark.parametrize(
    "criterion",
    [CompositionalMLELoss(gamma=1.0), NCELoss(), ContrastiveDivergenceLoss(10, 0.1)],
    ids=lambda loss: type(loss).__name__,
)
def test_every_loss_learns(criterion: EnergyLoss) -> None:
    model, trainer = trained(eight(num_points=256), 8, lr=0.03, criterion=criterion)
    assert f"train/{criterion.term}_epoch" in trainer.callback_metrics
    assert float(model.metric_values["nll"]) < float(model.metric_values["nll/noise"])


def test_an_energy_without_a_base_learns_too() -> None:
    noise = UniformNoise(margin=0.3)
    model, _ = trained(eight(outliers=0.0), 8, tilted=False, noise=noise)
    assert float(model.metric_values["nll"]) < float(model.metric_values["nll/noise"]) - 0.1


def test_the_normalizer_of_the_untrained_model_is_1() -> None:
    model, _ = trained(eight(num_points=64), epochs=1, lr=0.0)
    assert float(model.metric_values["log_z"]) == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(model.metric_values["nll"], model.metric_values["nll/noise"])
    assert float(model.criterion.log_u) == pytest.approx(0, abs=1e-6)


def test_longer_rows_have_an_estimate_and_images_are_flattened() -> None:
    data = OutlierClasses(Digits(val_size=100), outliers=[9], batch_size=512)
    model, _ = trained(data, 1, noise=MixtureNoise(2, ridge=0.01))
    assert {"nll_estimate", "auroc", "auroc/noise"} <= set(model.metric_values)
    assert "nll" not in model.metric_values
    assert model.metric_values["plane"] is None
    predicted = model.predict({"image": torch.zeros(3, 1, 8, 8)})
    torch.testing.assert_close(predicted["energy"], model(torch.zeros(3, 1, 8, 8)).detach())


def test_noise_that_is_fitted_stays() -> None:
    noise = UniformNoise()
    noise.allocate(2)
    noise.fit(torch.tensor([[-9.0, -9.0], [9.0, 9.0]]))
    model, _ = trained(eight(num_points=64), 1, noise=noise)
    assert model.noise.low.tolist() == pytest.approx([-10.8, -10.8])  # type: ignore[operator]


def test_figures_are_made_of_the_latest_evaluation() -> None:
    model, _ = trained(eight(num_points=64), 1)
    plane = model.metric_values["plane"]
    assert list(plane.densities) == ["true", "learned", "noise, with draws"]
    assert set(model.figures("val", model.metric_values)) == {"densities", "energies"}
    assert model.figures("val", {}) == {}


def test_an_unfitted_noise_needs_a_datamodule() -> None:
    rows = [{"input": torch.zeros(4, 2), "index": torch.arange(4)}]

    class Plain(LightningDataModule):
        def train_dataloader(self) -> Any:
            return rows

        val_dataloader = train_dataloader

    with pytest.raises(IncompatibleError, match="give fit\\(\\) a trimtab DataModule, or noise"):
        quiet_trainer(1).fit(EnergyModel(input_shape=[2]), Plain())


def test_tuples_of_any_loader_do_where_the_noise_is_fitted() -> None:
    noise = UniformNoise()
    noise.allocate(2)
    noise.fit(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    rows = torch.utils.data.TensorDataset(torch.rand(8, 2), torch.zeros(8))
    model = EnergyModel(input_shape=[2], widths=(4,), grid_size=5, noise=noise)
    loader = torch.utils.data.DataLoader(rows, 4)
    quiet_trainer(1).fit(model, loader, loader)
    assert math.isfinite(float(model.metric_values["nll"]))


def test_wrong_arguments_are_said() -> None:
    with pytest.raises(ValueError, match=r"set model\.input_shape"):
        EnergyModel()
    with pytest.raises(ValueError, match="one chain a row, got draws=2"):
        EnergyModel(input_shape=[2], criterion=ContrastiveDivergenceLoss(), draws=2)


def test_the_energy_is_that_of_the_tilted_noise() -> None:
    model = EnergyModel(input_shape=[2], noise=NormalNoise())
    x = torch.tensor([[3.0, 4.0]])
    wanted = math.log(2 * math.pi) + 12.5
    torch.testing.assert_close(model(x).detach(), torch.tensor([wanted]))
    assert model.log_ratio(x).item() == 0
    free = EnergyModel(input_shape=[2], tilted=False)
    assert free(x).item() == 0
    torch.testing.assert_close(free.log_ratio(x).detach(), torch.tensor([wanted]))
