import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes

from datamodules import Tabular
from framework.data.facts import facts_of


def rows(loader, name):
    return torch.cat([batch[name] for batch in loader])


def ready(**kwargs):
    data = Tabular(**kwargs)
    data.setup()
    return data


@pytest.fixture
def table(tmp_path):
    """30 rows: three inputs, the second constant, and a target that is no small number."""
    numbers = np.random.default_rng(0).normal(size=(30, 4)) * [1, 0, 5, 20] + [0, 0.1, 7, 1000]
    lines = [",".join(f"{v:.6f}" for v in row) for row in numbers]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["age,site,dose,outcome", *lines]) + "\n")
    return path, torch.tensor(np.round(numbers, 6))


def test_every_patient_is_in_one_split():
    data = ready(test_size=92, val_size=50)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert [len(rows(loader, "index")) for loader in loaders] == [300, 50, 92]
    index = torch.cat([rows(loader, "index") for loader in loaders])
    assert sorted(index.tolist()) == list(range(442))
    inputs, target = load_diabetes(return_X_y=True, scaled=False)
    mean, std = data.target_mean, data.target_std
    found = torch.cat([rows(loader, "target") for loader in loaders]) * std + mean
    torch.testing.assert_close(found, torch.tensor(target[index]).float())
    bmi = torch.cat([rows(loader, "input") for loader in loaders])[:, 2]
    assert np.corrcoef(bmi, inputs[index, 2])[0, 1] == pytest.approx(1)
    assert data.num_samples == 442
    assert (data.input_size, data.num_targets, data.num_classes) == (10, 1, None)
    assert data.target_names == ["progression"]


def test_standard_units_are_those_of_the_training_rows():
    data = ready(val_size=100, test_size=100)
    train = rows(data.train_dataloader(), "input"), rows(data.train_dataloader(), "target")
    for values in train:
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1:]), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            values.std(0, correction=0), torch.ones(values.shape[1:]), atol=1e-5, rtol=0
        )
    assert rows(data.test_dataloader(), "input").mean(0).abs().max() > 0.01


def test_without_standard_units_the_numbers_are_those_of_the_file(table):
    path, numbers = table
    data = ready(source=str(path), standardize_inputs=False, standardize_target=False)
    batch = next(iter(data.train_dataloader()))
    torch.testing.assert_close(batch["input"], numbers[batch["index"], :3].float())
    torch.testing.assert_close(batch["target"], numbers[batch["index"], 3].float())
    assert (data.target_mean, data.target_std) == (0, 1)


def test_a_constant_column_becomes_zero(table):
    data = ready(source=str(table[0]))
    for loader in (data.train_dataloader(), data.test_dataloader()):
        values = rows(loader, "input")
        assert not values[:, 1].any()
        assert values.isfinite().all()


def test_a_constant_column_stays_zero_where_it_changes_later(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("".join(f"{row} {0.1 if row < 8 else 9e9} 3\n" for row in range(10)))
    (tmp_path / "index_train_0.txt").write_text("\n".join(map(str, range(8))))
    (tmp_path / "index_test_0.txt").write_text("8\n9\n")
    data = ready(source=str(path), fold=0, val_size=0)
    assert not rows(data.test_dataloader(), "input")[:, 1].any()
    assert (data.target_mean, data.target_std) == (3, 1)  # a constant target


def test_columns_by_name_and_by_number(table):
    path, numbers = table
    plain = {"standardize_inputs": False, "standardize_target": False}
    data = ready(source=str(path), target="dose", features=["outcome", 0], **plain)
    batch = next(iter(data.train_dataloader()))
    torch.testing.assert_close(batch["input"], numbers[batch["index"]][:, [3, 0]].float())
    torch.testing.assert_close(batch["target"], numbers[batch["index"], 2].float())
    assert data.feature_names == ["outcome", "age"]
    several = ready(source=str(path), target=["dose", -1])
    assert next(iter(several.train_dataloader()))["target"].shape == (21, 2)
    assert (several.input_size, several.num_targets) == (2, 2)


def test_linnerud_has_three_targets():
    data = ready(source="linnerud")
    batch = next(iter(data.train_dataloader()))
    assert batch["input"].shape == batch["target"].shape == (14, 3)
    assert data.target_mean.shape == (3,)
    assert data.target_names == ["Weight", "Waist", "Pulse"]


def test_a_fold_takes_the_rows_of_its_files(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("".join(f"{row} {row * row} \t {row % 3}\n" for row in range(12)))
    (tmp_path / "index_train_3.txt").write_text("\n".join(f"{r}.0" for r in (0, 2, 4, 6, 8, 10)))
    (tmp_path / "index_test_3.txt").write_text("1\n3\n11\n")
    data = ready(source=str(path), fold=3, val_size=2)
    index = [rows(getattr(data, f"{part}_dataloader")(), "index") for part in ("train", "val")]
    assert sorted(torch.cat(index).tolist()) == [0, 2, 4, 6, 8, 10]
    assert len(index[1]) == 2
    assert rows(data.test_dataloader(), "index").tolist() == [1, 3, 11]
    (tmp_path / "index_test_3.txt").write_text("1\n2\n")
    with pytest.raises(ValueError, match="has row 2 in both training and test"):
        ready(source=str(path), fold=3)
    (tmp_path / "index_test_3.txt").write_text("1\n12\n")
    with pytest.raises(ValueError, match=r"names the row 12, but .* has the rows 0\.\.11"):
        ready(source=str(path), fold=3)
    (tmp_path / "index_test_3.txt").write_text("1\n1\n")
    with pytest.raises(ValueError, match="names a row twice"):
        ready(source=str(path), fold=3)
    with pytest.raises(FileNotFoundError, match=r"index_test_7\.txt: there is no such file"):
        ready(source=str(path), fold=7)
    with pytest.raises(ValueError, match="fold=0 reads files beside the table"):
        Tabular(fold=0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source": "diabtes"}, "neither a file nor one of diabetes, linnerud"),
        ({"target": "progresion"}, "no column 'progresion' .* nearest are progression"),
        ({"features": ["bmi", 11]}, "no column 11 among its 11"),
        ({"features": ["bmi", "progression"]}, "target 'progression' is among the features"),
        ({"test_size": 0.9, "val_size": 50}, "val_size=50 is 50 of the 44 rows .* from 2 to 42"),
        ({"test_size": 442}, "test_size=442 is 442 of the 442 rows"),
        ({"val_size": 1}, "val_size=1 is 1 of the 354 rows"),
        ({"val_size": -1}, "val_size=-1"),
        ({"features": []}, "features must name"),
        ({"target": []}, "target must name"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ready(**arguments)


def test_no_row_needs_to_be_held_out():
    data = ready(val_size=0, test_size=0)
    assert len(data.train_set) == 442
    assert (data.val_set, data.test_set, data.predict_set) == (None, None, None)


def test_all_rows_of_a_new_table_are_evaluated_by_the_statistics_of_training(table, tmp_path):
    path, numbers = table
    trained = ready(source=str(path), val_size=5, test_size=5)
    lines = path.read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join([lines[0], *lines[1:8]]) + "\n")
    (tmp_path / "copy.csv").write_text(path.read_text())
    for stage in ("validate", "test"):
        data = Tabular(source=str(tmp_path / "new.csv"), val_size=5, test_size=5)
        data.use_facts(facts_of(trained))
        data.setup(stage)
        loader = data.val_dataloader() if stage == "validate" else data.test_dataloader()
        target = rows(loader, "target") * trained.target_std + trained.target_mean
        torch.testing.assert_close(target, numbers[:7, -1].float())
        copied = Tabular(source=str(tmp_path / "copy.csv"), val_size=5, test_size=5)
        copied.use_facts(facts_of(trained))
        copied.setup(stage)
        assert len(copied.test_set) == len(copied.val_set) == 5
    path.write_text("\n".join(lines[:20]) + "\n")
    with pytest.warns(UserWarning, match="has changed since the training"):
        Tabular(source=str(path)).use_facts(facts_of(trained))
