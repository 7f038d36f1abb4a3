"""Validation chooses the prefix, the checkpoint keeps it, testing and co-teaching use it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import trimtab
from framework.metrics.prefix_accuracy import best_prefix
from modules import NestedClassifier
from modules.coteaching.stage_one import load_stage_one
from modules.nested.network import NestedNetwork
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested")
    args = [*arguments("nested"), *QUIET, f"--run_folder={folder}"]
    trimtab.main(["fit", *args])
    trimtab.main(["test", *args, f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"])
    return folder


def stored(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def last(path: Path, column: str) -> float:
    with path.open() as file:
        values = [row[column] for row in csv.DictReader(file) if row.get(column)]
    return float(values[-1])


def network(state: dict, sigma: float | None = 3.0) -> NestedNetwork:
    module = NestedClassifier(num_classes=10, input_shape=(1, 8, 8), widths=(8, 8), sigma=sigma)
    module.network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )
    return module.network.eval()


def test_the_chosen_prefix_is_the_best_of_validation_and_in_the_checkpoint(run: Path) -> None:
    from datamodules import Digits

    state = stored(run)
    chosen = network(state).eval_k
    assert chosen == last(run / "metrics.csv", "val/best_prefix")
    data = Digits(val_size=100, test_size=1500)
    data.setup("fit")
    batch = data.val_set.dataset.batch(data.val_set.indices)
    accuracies = []
    for k in range(1, 9):
        cut = network(state)
        cut.dropout.eval_k = k
        right = cut(batch["image"])[0].argmax(1) == batch["label"]
        accuracies.append(right.double().mean())
    assert best_prefix(torch.stack(accuracies)) == chosen
    assert last(run / "metrics.csv", "val/accuracy") == pytest.approx(float(accuracies[chosen - 1]))


def test_testing_uses_the_stored_prefix(run: Path) -> None:
    from datamodules import Digits

    data = Digits(val_size=100, test_size=1500)
    data.setup("fit")
    batch = data.test_set.batch(range(len(data.test_set)))
    right = network(stored(run))(batch["image"])[0].argmax(1) == batch["label"]
    tested = last(run / "metrics_test.csv", "test/accuracy")
    assert tested == pytest.approx(float(right.double().mean()))


def test_co_teaching_starts_from_the_checkpoint(run: Path) -> None:
    path = str(run / "checkpoints" / "last.ckpt")
    fresh = NestedClassifier(
        num_classes=10, input_shape=(1, 8, 8), widths=(8, 8), sigma=3.0
    ).network
    load_stage_one(fresh, path)
    expected = network(stored(run))
    assert fresh.eval_k == expected.eval_k
    image = torch.rand(4, 1, 8, 8)
    assert torch.equal(fresh.eval()(image)[0], expected(image)[0])
    other = NestedClassifier(
        num_classes=10, input_shape=(1, 8, 8), widths=(8, 4), sigma=3.0
    ).network
    with pytest.raises(ValueError, match="is of another network than the config describes"):
        load_stage_one(other, path)
    with pytest.raises(FileNotFoundError):
        load_stage_one(fresh, str(run / "none.ckpt"))


def test_without_nested_dropout_all_features_are_used() -> None:
    plain = NestedClassifier(num_classes=10, input_shape=(1, 8, 8), widths=(8, 8), sigma=None)
    assert plain.eval_k == 8
    with pytest.raises(ValueError, match="set sigma to null"):
        NestedClassifier(num_classes=10, input_shape=(1, 8, 8), sigma=5.0, dropout=0.3)


def test_ordinary_dropout_is_that_of_the_global_batch() -> None:
    """The global generators, which differ between ranks, have no part in it."""
    image, logits = torch.rand(6, 1, 8, 8), []
    model = NestedClassifier(
        num_classes=10, input_shape=(1, 8, 8), widths=(8, 8), sigma=None, dropout=0.5
    )
    for seed in (1, 2):
        model.network.dropout.count = 0
        torch.manual_seed(seed)
        logits.append(model(image))
    assert torch.equal(*logits)
    assert not torch.equal(model(image), logits[0])
