import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import nn
from torch.utils.data import DataLoader

from datamodules import Tabular
from framework.objectives.errors import IncompatibleError
from modules import Regressor
from modules.regressor.network import RegressorNetwork


def linear(**kwargs):
    kwargs = {"num_inputs": 10, "widths": (), **kwargs}
    return Regressor(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), **kwargs)


def fit(model, data, folder, epochs=1):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    trainer.fit(model, data)
    return trainer


def test_without_hidden_layers_it_is_linear_regression(tmp_path):
    data = Tabular(batch_size=400, val_size=42, test_size=0)
    model = Regressor(10, widths=(), optimizer=lambda p: torch.optim.LBFGS(p, max_iter=200))
    assert [tuple(p.shape) for p in model.parameters()] == [(1, 10), (1,)]
    fit(model, data, tmp_path)
    batch = data.train_set.dataset.batch(data.train_set.indices)
    expected = LinearRegression().fit(batch["input"], batch["target"]).predict(batch["input"])
    torch.testing.assert_close(model(batch["input"]), torch.tensor(expected), atol=1e-3, rtol=0)


def test_layers():
    network = RegressorNetwork(10, 1, [128, 128], 32, [128])
    kinds = [type(layer) for layer in [*network.encoder, *network.decoder]]
    nonlinear = [nn.Flatten, nn.Linear, nn.ReLU]
    assert kinds == [*nonlinear, nn.Linear, nn.ReLU, nn.Linear, *nonlinear]
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert shapes == [(128, 10), (128, 128), (32, 128), (128, 32), (1, 128)]
    predictions, features = network(torch.zeros(3, 10))
    assert (predictions.shape, features.shape) == ((3,), (3, 32))
    predictions, features = RegressorNetwork(4, 2, [8], None, [])(torch.zeros(3, 4))
    assert (predictions.shape, features.shape) == ((3, 2), (3, 8))
    assert (features >= 0).all()


@pytest.mark.parametrize("source", ["diabetes", "linnerud"])
def test_metrics_and_predictions_are_in_the_unit_of_the_data(source, tmp_path):
    data = Tabular(source=source, batch_size=7, eval_batch_size=3, val_size=6, test_size=4)
    data.setup()
    torch.manual_seed(0)
    model = linear(num_inputs=data.input_size, num_targets=data.num_targets)
    trainer = fit(model, data, tmp_path)
    (measured,) = trainer.validate(model, data, verbose=False)
    batch = data.val_set.dataset.batch(data.val_set.indices)
    true = batch["target"] * data.target_std + data.target_mean
    predicted = torch.cat(
        [model.predict_columns(b)["prediction"] for b in data.val_dataloader()]
    ).detach()
    # in raw units the means of all targets are several deviations away from 0
    assert ((predicted.mean(0) - true.mean(0)).abs() < 1.5 * data.target_std).all()
    assert measured["val/mae"] == pytest.approx(mean_absolute_error(true, predicted), rel=1e-4)
    flat = true.flatten(), predicted.flatten()
    assert measured["val/rmse"] == pytest.approx(root_mean_squared_error(*flat), rel=1e-4)
    assert measured["val/r2"] == pytest.approx(r2_score(true, predicted), rel=1e-3)
    assert measured["val/loss"] == pytest.approx(
        float(((true - predicted) / data.target_std).square().mean()), rel=1e-4
    )
    figures = model.figures("val", model.metric_values)
    assert len(figures) == data.num_targets
    (points,) = next(iter(figures.values())).axes[0].collections
    first = (v if v.ndim == 1 else v[:, 0] for v in (true, predicted))
    expected = np.stack([v.numpy() for v in first], axis=1)
    np.testing.assert_allclose(np.asarray(points.get_offsets()), expected, rtol=1e-4)


def test_a_target_far_from_zero_costs_no_digits(tmp_path):
    path = tmp_path / "t.csv"
    x = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path.write_text("".join(f"{v},{1e6 + v}\n" for v in x.tolist()))
    data = Tabular(source=str(path), batch_size=10)
    trainer = fit(linear(num_inputs=1), data, tmp_path, epochs=20)
    assert trainer.callback_metrics["val/r2"] > 0.9999
    assert trainer.callback_metrics["val/rmse"] < 1e-2


def test_what_it_provides_and_what_it_hands_to_a_loss():
    batch = {
        "input": torch.randn(4, 10),
        "target": torch.randn(4),
        "index": torch.arange(4),
        "group": torch.tensor([0, 0, 1, 1]),
    }
    model = Regressor(10, widths=(8,), criterion=nn.HuberLoss())
    objectives = model.objectives(batch)
    assert objectives.per_sample["regression"].shape == (4,)
    assert objectives.features.shape == (4, 8)
    assert objectives.targets is batch["target"]
    assert (objectives.index is batch["index"], objectives.group is batch["group"]) == (True, True)
    assert torch.equal(model(*model.forward_inputs(batch)), objectives.predictions)
    expected = nn.functional.huber_loss(objectives.predictions, batch["target"], reduction="none")
    assert torch.equal(objectives.per_sample["regression"], expected)
    assert isinstance(Regressor(10).criterion, nn.MSELoss)


@pytest.mark.parametrize(("targets", "shape"), [(1, (4, 1)), (2, (4,)), (2, (4, 3))])
def test_targets_of_another_shape_are_refused(targets, shape):
    batch = {"input": torch.zeros(4, 10), "target": torch.zeros(shape)}
    with pytest.raises(ValueError, match=r"set model\.num_targets"):
        Regressor(10, num_targets=targets).objectives(batch)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_inputs": 9}, r"Tabular has input_size 10, .* for 9: set model\.num_inputs"),
        (
            {"num_inputs": 10, "num_targets": 2},
            r"Tabular has num_targets 1, .* for 2: set model\.num_targets",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused(arguments, sentence, tmp_path):
    with pytest.raises(IncompatibleError, match=sentence):
        fit(Regressor(**arguments), Tabular(), tmp_path)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e25])
def test_scores_are_those_of_the_targets_in_any_unit(unit, tmp_path):
    table = Tabular()
    table.setup("fit")
    rows = table.train_set.dataset
    values = torch.cat([rows.fields["input"], rows.fields["target"][:, None]], 1).double()
    values[:, -1] *= unit
    path = tmp_path / "a.csv"
    path.write_text("\n".join(",".join(map(repr, row)) for row in values.tolist()))
    data = Tabular(str(path))
    torch.manual_seed(0)
    model = Regressor(10, widths=())
    trainer = fit(model, data, tmp_path, epochs=2)
    (found,) = trainer.validate(model, data, verbose=False)
    inputs = rows_of(data.val_set)
    with torch.no_grad():
        predicted = model.predict_columns({"input": inputs["input"]})["prediction"].double()
    true = inputs["target"].double() * data.target_std + data.target_mean
    rmse = (predicted - true).square().mean().sqrt()
    assert found["val/rmse"] == pytest.approx(float(rmse), rel=1e-4, abs=0)
    mae = (predicted - true).abs().mean()
    assert found["val/mae"] == pytest.approx(float(mae), rel=1e-4, abs=0)
    r2 = 1 - (predicted - true).square().sum() / (true - true.mean()).square().sum()
    assert found["val/r2"] == pytest.approx(float(r2), abs=1e-4)
    assert found["val/r2"] < 0.9


def test_r2_of_small_targets_from_a_plain_loader(tmp_path):
    targets = torch.tensor([-1.0, 0.0, 1.0]) * 1e-4
    model = Regressor(1, widths=())
    weight, bias = model.parameters()
    nn.init.constant_(weight, -1)
    nn.init.zeros_(bias)
    loader = DataLoader([{"input": t[None], "target": t} for t in targets], batch_size=2)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    (found,) = trainer.validate(model, loader, verbose=False)
    assert found["val/r2"] == pytest.approx(-3)


def rows_of(subset):
    return subset.dataset.batch(subset.indices)
