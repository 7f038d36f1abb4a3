import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from datamodules import Bags, Digits, LabelNoise, Tabular
from framework.data.datamodule import DataModule
from framework.data.privacy import MeanRelease, response_sensitivity


def ready(data, **kwargs):
    bagged = Bags(data, **{"bag_size": 10, **kwargs})
    bagged.setup("fit")
    return bagged


def epoch(loader):
    """Return the epoch's rows in the order of their index."""
    batches = list(loader)
    whole = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
    order = whole["index"].argsort()
    return {name: value[order] for name, value in whole.items()}


def individual(data):
    data.setup("fit")
    return epoch(data.train_dataloader())


def test_targets_are_the_means_of_their_bags():
    found, single = epoch(ready(Tabular()).train_dataloader()), individual(Tabular())
    assert sorted(found) == ["group", "index", "input", "target"]
    assert torch.equal(found["index"], single["index"])
    assert torch.equal(found["input"], single["input"])
    assert not torch.equal(found["index"], torch.arange(len(found["index"]))), "rows of the table"
    for bag in found["group"].unique():
        members = found["group"] == bag
        mean = single["target"][members].double().mean().float()
        assert found["target"][members].tolist() == pytest.approx(
            [mean.item()] * len(members.nonzero())
        )
    # 310 training rows
    sizes = torch.bincount(found["group"])
    assert sizes.tolist() == [10] * 31


def test_several_targets_have_means_of_their_own():
    data = Tabular(source="linnerud", val_size=0, test_size=0)
    found = epoch(ready(data, bag_size=3).train_dataloader())
    single = individual(Tabular(source="linnerud", val_size=0, test_size=0))
    assert found["target"].shape == (20, 3)
    assert sorted(torch.bincount(found["group"]).tolist()) == [3, 3, 3, 3, 4, 4]
    members = found["group"] == 2
    torch.testing.assert_close(found["target"][members][0], single["target"][members].mean(0))


def test_labels_become_proportions():
    noise = LabelNoise(rate=0.5)
    found = epoch(ready(Digits(label_noise=noise), bag_size=4).train_dataloader())
    single = individual(Digits(label_noise=noise))
    assert sorted(found) == ["group", "image", "index", "label"], "no clean labels"
    assert found["label"].shape == (1437, 10)
    assert found["label"].dtype == torch.float32
    torch.testing.assert_close(found["label"].sum(1), torch.ones(1437))
    assert torch.equal(found["image"], single["image"])
    members = found["group"] == 7
    counts = torch.bincount(single["label"][members], minlength=10)
    torch.testing.assert_close(found["label"][members][0], counts / counts.sum())


def test_batches_are_whole_bags_and_count_rows():
    data = ready(Tabular(), batch_size=45)
    batches = list(data.train_dataloader())
    assert [len(b["index"]) for b in batches] == [40] * 7 + [30]
    assert all((torch.bincount(b["group"])[b["group"].unique()] == 10).all() for b in batches)
    assert len(list(ready(Tabular(), batch_size=4).train_dataloader())) == 31


def test_evaluation_is_individual():
    data, plain = ready(Digits()), Digits()
    plain.setup()
    for loader in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        found, single = (list(getattr(d, loader)()) for d in (data, plain))
        assert found[0].keys() == single[0].keys() == {"image", "label", "index"}
        assert torch.equal(found[0]["label"], single[0]["label"])


def test_tells_what_the_wrapped_data_tells():
    data = ready(Digits(batch_size=3, eval_batch_size=5), batch_size=50)
    assert (data.num_classes, data.input_shape) == (10, (1, 8, 8))
    assert data.class_names == tuple("0123456789")
    assert (data.batch_size, data.eval_batch_size) == (50, 50)
    assert data.num_samples == 1617, "the full training set, validation rows included"
    assert data.has_groups
    table, plain = ready(Tabular()), Tabular()
    plain.setup()
    assert (table.input_size, table.num_targets, table.num_classes) == (10, 1, None)
    assert table.target_std == plain.target_std
    assert table.target_mean == plain.target_mean


def test_augmentation_acts_on_inputs_alone():
    flip = nn.Sequential(nn.ReLU(), nn.Hardtanh(0, 0.5))
    data = ready(Digits(augment=[flip], mean=[0.5], std=[2.0]), bag_size=5)
    found, plain = (
        epoch(data.train_dataloader()),
        epoch(ready(Digits(), bag_size=5).train_dataloader()),
    )
    torch.testing.assert_close(found["image"], (plain["image"].clamp(0, 0.5) - 0.5) / 2)
    assert torch.equal(found["label"], plain["label"])
    assert torch.equal(found["group"], plain["group"])


@pytest.mark.parametrize("augment", [None, [nn.Hardtanh(0, 0.5)]])
def test_the_ordered_training_set_is_bagged_and_not_augmented(augment):
    data = ready(Digits(augment=augment, mean=[0.5], std=[0.5]), bag_size=5)
    expected = epoch(ready(Digits(mean=[0.5], std=[0.5]), bag_size=5).train_dataloader())
    batches = list(data.ordered_train_dataloader())
    assert batches[0].keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), value), name


def test_bags_follow_their_seed_and_not_that_of_the_run(monkeypatch):
    first = ready(Tabular())
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    second, other = ready(Tabular()), ready(Tabular(), bag_seed=1)
    assert torch.equal(first.bag_of_row, second.bag_of_row)
    assert not torch.equal(first.bag_of_row, other.bag_of_row)
    # the order of the bags is the run's
    orders = [next(iter(data.train_dataloader()))["group"] for data in (first, second)]
    assert not torch.equal(*orders)


def test_workers_change_nothing():
    data = ready(Digits(val_size=1600), bag_size=2, num_workers=1)
    alone = ready(Digits(val_size=1600), bag_size=2)
    for found, expected in zip(data.train_dataloader(), alone.train_dataloader(), strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


# ---- private release ----------------------------------------------------------------------------


def test_means_are_clipped_and_released_once_with_laplace_noise():
    private = {"epsilon": 2.0, "clip": 0.5, "bag_size": 4}
    data, single = ready(Tabular(), **private), individual(Tabular())
    found, again = epoch(data.train_dataloader()), epoch(data.train_dataloader())
    assert torch.equal(found["target"], again["target"]), "the same in every epoch"
    assert torch.equal(
        found["target"], epoch(ready(Tabular(), **private).train_dataloader())["target"]
    )
    other = epoch(ready(Tabular(), bag_seed=1, **private).train_dataloader())
    assert not torch.equal(found["target"], other["target"])
    sums = torch.zeros(77).index_add(0, found["group"], single["target"].clamp(-0.5, 0.5))
    means = sums / torch.bincount(found["group"])
    released = torch.zeros(77).scatter(0, found["group"], found["target"])
    # scale 2 C / (k epsilon), of which the standard deviation is sqrt(2) times
    scale = 2 * 0.5 / (4 * 2.0)
    assert float((released - means).abs().mean()) == pytest.approx(scale, rel=0.25)
    noise = (released - means) / scale
    again = ready(Tabular(), **(private | {"epsilon": 0.5})).train_set.dataset.response
    torch.testing.assert_close((again - means) / (4 * scale), noise, atol=1e-4, rtol=1e-4)


def test_gaussian_noise_has_the_stated_deviation():
    private = {"epsilon": 1.0, "mechanism": "gaussian", "delta": 1e-3, "clip": 1.0, "bag_size": 2}
    released = ready(Tabular(), **private).train_set.dataset.response
    exact = ready(Tabular(), **(private | {"epsilon": 1e6})).train_set.dataset.response
    expected = MeanRelease(1.0, "gaussian", 1e-3).noise_std(response_sensitivity(2, 1.0))
    assert float((released - exact).std()) == pytest.approx(expected, rel=0.15)


def test_private_proportions_are_proportions():
    released = ready(Digits(), bag_size=20, epsilon=1.0).train_set.dataset.response
    exact = ready(Digits(), bag_size=20).train_set.dataset.response
    assert released.min() >= 0
    torch.testing.assert_close(released.sum(1), torch.ones(71))
    # projection only brings noise of mean size 2 / (k epsilon) closer
    assert 0.01 < float((released - exact).abs().mean()) < 2 / 20
    near = ready(Digits(), bag_size=20, epsilon=1e5).train_set.dataset.response
    torch.testing.assert_close(near, exact, atol=1e-4, rtol=0)


# ---- resume and refusals ------------------------------------------------------------------------


def test_a_checkpoint_of_other_bags_is_refused():
    state = ready(Tabular()).state_dict()
    ready(Tabular()).load_state_dict(state)
    for change in ({"bag_size": 5}, {"bag_seed": 1}, {"epsilon": 1.0, "clip": 1.0}):
        with pytest.raises(RuntimeError, match="other bags or another release"):
            ready(Tabular(), **change).load_state_dict(state)


class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, row):
        return {"label": torch.tensor(row)}


class RowByRow(DataModule):
    train_set = Images()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Bags(Digits(mixup=0.2), 5), ValueError, "switch the mixup of Digits off"),
        (lambda: Bags(Digits(shards=2), 5), ValueError, "drop Digits's shards"),
        (lambda: Bags(Digits(drop_last=True), 5), ValueError, "would leave out whole bags"),
        (lambda: Bags(Bags(Digits(), 5), 5), ValueError, "Bags gives groups of its own"),
        (lambda: Bags(Digits(), 0), ValueError, "bag_size must be at least 1, got 0"),
        (lambda: ready(Tabular(), bag_size=311), ValueError, r"bag_size must lie in 1\.\.310"),
        (lambda: Bags(Tabular(), 5, clip=1.0), ValueError, "belong to a private release"),
        (lambda: Bags(Tabular(), 5, delta=0.1), ValueError, "belong to a private release"),
        (lambda: Bags(Tabular(), 5, epsilon=1.0, clip=0.0), ValueError, "clip must be positive"),
        (lambda: Bags(Tabular(), 5, epsilon=-1.0, clip=1.0), ValueError, "epsilon must be"),
        (lambda: ready(Tabular(), epsilon=1.0), ValueError, "release of targets needs clip"),
        (lambda: ready(Digits(), epsilon=1.0, clip=1.0), ValueError, "no meaning for class labels"),
        (lambda: ready(RowByRow(), bag_size=2), TypeError, "needs an ArrayDataset, not a Images"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
