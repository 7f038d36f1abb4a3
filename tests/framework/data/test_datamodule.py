import random
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from framework.data.datamodule import DataModule, GlobalBatchSampler
from framework.data.datasets import ArrayDataset, IndexedDataset, stable_position
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5))
FLAGS = st.booleans()
STREAM = st.tuples(st.integers(0, 3), st.integers(0, 3))  # seed, epoch


def stream(rows, batch_size, *, epoch=0, skip=0, **arguments):
    """Return the batches of one rank, rows only."""
    sampler = GlobalBatchSampler(rows, batch_size, start=lambda: (epoch, skip), **arguments)
    batches = list(sampler)
    assert all(key[0] == epoch for batch in batches for key in batch)
    return [[row for _, row in batch] for batch in batches]


def flat(lists):
    return list(chain.from_iterable(lists))


def all_ranks(rows, batch_size, world_size, **arguments):
    """Return, for every global batch, the slices of the ranks in order."""
    ranks = [
        stream(rows, batch_size, rank=rank, world_size=world_size, **arguments)
        for rank in range(world_size)
    ]
    return list(zip(*ranks, strict=True))


@given(SIZES, STREAM, FLAGS, FLAGS)
def test_ranks_share_the_batches_of_one_process(sizes, key, shuffle, drop_last):
    rows, batch_size, world_size = sizes
    arguments = {"shuffle": shuffle, "drop_last": drop_last, "seed": key[0], "epoch": key[1]}
    alone = stream(rows, batch_size, **arguments)
    shared = all_ranks(rows, batch_size, world_size, **arguments)
    assert [flat(slices) for slices in shared] == alone
    for slices in shared:
        lengths = [len(part) for part in slices]
        assert max(lengths) - min(lengths) <= 1


@given(SIZES, STREAM, FLAGS, FLAGS)
def test_an_epoch_is_every_row_once(sizes, key, shuffle, drop_last):
    rows, batch_size, _ = sizes
    batches = stream(rows, batch_size, shuffle=shuffle, drop_last=drop_last, seed=key[0])
    seen = flat(batches)
    assert len(set(seen)) == len(seen)
    assert len(seen) == (rows // batch_size * batch_size if drop_last else rows)
    assert all(len(batch) == batch_size for batch in batches[: rows // batch_size])
    if not shuffle:
        assert seen == sorted(seen)


def test_order_is_a_function_of_seed_and_epoch_alone():
    def order(seed, epoch):
        return flat(stream(50, 8, shuffle=True, seed=seed, epoch=epoch))

    first = order(0, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert order(0, 0) == first
    assert torch.equal(torch.get_rng_state(), before)
    others = [order(0, 1), order(1, 0), order(1, 1)]
    assert len({tuple(o) for o in [first, *others]}) == 4
    assert first == flat(stream(50, 7, shuffle=True)), "batch size does not change the order"


@given(SIZES, STREAM, FLAGS, st.integers(0, 8))
def test_position_leaves_out_whole_global_batches(sizes, key, drop_last, skip):
    rows, batch_size, world_size = sizes
    arguments = {"shuffle": True, "drop_last": drop_last, "seed": key[0], "epoch": key[1]}
    whole = all_ranks(rows, batch_size, world_size, **arguments)
    assert all_ranks(rows, batch_size, world_size, skip=skip, **arguments) == whole[skip:]


@given(SIZES, FLAGS)
def test_length_is_that_of_the_full_epoch(sizes, drop_last):
    rows, batch_size, world_size = sizes
    arguments = {"shuffle": True, "drop_last": drop_last, "world_size": world_size}
    sampler = GlobalBatchSampler(rows, batch_size, start=lambda: (0, 1), **arguments)
    assert len(sampler) == len(stream(rows, batch_size, **arguments))
    assert len(list(sampler)) == max(0, len(sampler) - 1)


@st.composite
def sharded(draw):
    shards = draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
    rows = draw(st.integers(1, 60))
    # a Subset's rows lie unevenly on the shards
    stable = draw(st.lists(st.integers(0, 99), min_size=rows, max_size=rows, unique=True))
    return rows, shards * draw(st.integers(1, 3)), shards, torch.tensor(stable)


@settings(deadline=None)
@given(sharded(), STREAM, FLAGS, FLAGS)
def test_shards_give_the_same_global_batches_on_every_divisor(case, key, drop_last, shuffle):
    rows, batch_size, shards, stable = case
    arguments = {
        "shards": shards,
        "stable_index": stable,
        "shuffle": shuffle,
        "drop_last": drop_last,
        "seed": key[0],
        "epoch": key[1],
    }
    alone = [set(batch) for batch in stream(rows, batch_size, **arguments)]
    for world_size in (w for w in range(1, shards + 1) if shards % w == 0):
        shared = all_ranks(rows, batch_size, world_size, **arguments)
        assert [set().union(*slices) for slices in shared] == alone
        for slices in shared:
            for rank, part in enumerate(slices):
                owners = {int(stable[row]) % shards * world_size // shards for row in part}
                assert owners <= {rank}
    seen = flat(stream(rows, batch_size, **arguments))
    assert len(seen) == len(set(seen))
    if not drop_last:
        assert sorted(seen) == list(range(rows))
    arguments.pop("epoch")
    assert len(GlobalBatchSampler(rows, batch_size, **arguments)) == len(alone)


@settings(deadline=None)
@given(sharded(), st.integers(0, 5))
def test_shards_and_position(case, skip):
    rows, batch_size, shards, stable = case
    arguments = {"shards": shards, "stable_index": stable, "shuffle": True}
    whole = stream(rows, batch_size, **arguments)
    assert stream(rows, batch_size, skip=skip, **arguments) == whole[skip:]


@given(sharded())
def test_a_full_batch_takes_an_equal_part_of_every_shard(case):
    rows, batch_size, shards, stable = case
    counts = torch.bincount(stable % shards, minlength=shards)
    full = int(counts.min()) // (batch_size // shards)
    assume(full)
    batches = stream(rows, batch_size, shards=shards, stable_index=stable, shuffle=True)
    for batch in batches[:full]:
        owners = torch.bincount(stable[torch.tensor(batch)] % shards, minlength=shards)
        assert owners.tolist() == [batch_size // shards] * shards


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 6, "shards": 3, "world_size": 2}, "multiple of the 2 ranks"),
        ({"batch_size": 5, "shards": 2, "world_size": 2}, "divide batch_size=5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GlobalBatchSampler(10, shuffle=True, **arguments)


def fields(rows=10):
    return {
        "image": torch.arange(rows, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2),
        "label": torch.arange(rows) % 3,
        "clean_label": torch.arange(rows) % 2,
    }


class Rows(Dataset):
    """The same fields as an ArrayDataset that can only be read row by row."""

    def __init__(self, **fields):
        self.inner = ArrayDataset(**fields)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, row):
        return self.inner[row]


def same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        assert torch.equal(value, second[name]), name


def test_array_dataset_scales_bytes_and_checks_lengths():
    data = ArrayDataset(**fields())
    assert data[5]["image"].dtype == torch.float32
    assert float(data[5]["image"].max()) == pytest.approx(5 / 255)
    assert int(data[5]["label"]) == 2
    with pytest.raises(ValueError, match="equal lengths"):
        ArrayDataset(image=torch.zeros(3, 1), label=torch.zeros(2))


def test_fast_path_equals_the_rows():
    keys = [(0, row) for row in (7, 2, 2, 9)]
    same(
        IndexedDataset(ArrayDataset(**fields())).__getitems__(keys),
        IndexedDataset(Rows(**fields())).__getitems__(keys),
    )


@pytest.mark.parametrize("source", [ArrayDataset, Rows])
def test_index_is_the_position_in_the_parent(source):
    parent = source(**fields())
    nested = Subset(Subset(parent, [1, 3, 5, 7, 9]), [4, 0, 2])
    batch = IndexedDataset(nested).__getitems__([(0, 0), (0, 1), (0, 2)])
    assert batch["index"].tolist() == [9, 1, 5]
    assert batch["index"].dtype == torch.int64
    assert torch.equal(batch["label"], batch["index"] % 3)
    assert [stable_position(nested, row) for row in range(3)] == [9, 1, 5]
    assert IndexedDataset(nested)[(4, 1)]["index"].item() == 1


@pytest.mark.parametrize("source", [ArrayDataset, Rows])
@pytest.mark.parametrize("augment", [None, dict])
def test_empty_slice_keeps_dtypes_and_trailing_shapes(source, augment):
    data = IndexedDataset(Subset(source(**fields()), [3, 4]), augment=augment)
    full, empty = data.__getitems__([(0, 1)]), data.__getitems__([])
    assert full.keys() == empty.keys()
    for name, value in empty.items():
        assert value.shape == (0, *full[name].shape[1:]), name
        assert value.dtype == full[name].dtype, name


def noisy(sample):
    """Add noise from each of the three global generators."""
    noise = torch.rand(()) + np.random.rand() + random.random()
    return {**sample, "image": sample["image"] + noise}


def read(keys, seed=0, **arguments):
    data = IndexedDataset(ArrayDataset(**fields()), augment=noisy, seed=seed)
    loader = DataLoader(data, batch_sampler=keys, collate_fn=lambda batch: batch, **arguments)
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    keys = [[(0, 1), (0, 2), (0, 3)], [(0, 4)]]
    first = read(keys)
    regrouped = read([[(0, 1)], [(0, 2), (0, 3), (0, 4)]])
    same(first, regrouped)
    noise = first["image"][:, 0, 0, 0] - first["index"] / 255
    assert len(noise.unique()) == 4
    assert not torch.equal(read([[(1, 1), (1, 2), (1, 3)], [(1, 4)]])["image"], first["image"])
    assert not torch.equal(read(keys, seed=1)["image"], first["image"])


def test_augmentation_does_not_depend_on_workers():
    keys = [[(0, row) for row in batch] for batch in ([1, 2, 3], [4, 5], [6, 7, 8], [])]
    same(read(keys), read(keys, num_workers=2))


def test_augmentation_keeps_away_from_the_global_generators():
    data = IndexedDataset(ArrayDataset(**fields()), augment=noisy)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    first = data[(0, 3)]
    drawn = torch.rand(()).item(), np.random.rand(), random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert drawn == (torch.rand(()).item(), np.random.rand(), random.random())
    same(first, data[(0, 3)])


def test_augmentation_of_a_subset_follows_the_stable_index():
    parent = ArrayDataset(**fields())
    whole = IndexedDataset(parent, augment=noisy)
    part = IndexedDataset(Subset(parent, [6, 3]), augment=noisy)
    same(whole[(2, 3)], part[(2, 1)])


class Ten(DataModule):
    def setup(self, stage=None):
        self.train_set = Subset(ArrayDataset(**fields()), [0, 2, 4, 6, 8, 9])
        self.val_set = ArrayDataset(**fields())


def ten(**arguments):
    data = Ten(**arguments)
    data.setup()
    return data


def test_datamodule_loaders():
    data = ten(batch_size=4, eval_batch_size=3)
    train = list(data.train_dataloader())
    assert [len(batch["index"]) for batch in train] == [4, 2]
    assert sorted(torch.cat([batch["index"] for batch in train]).tolist()) == [0, 2, 4, 6, 8, 9]
    val = list(data.val_dataloader())
    assert [batch["index"].tolist() for batch in val] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert data.test_dataloader() == []
    assert data.num_samples == 10
    assert [
        len(batch["index"]) for batch in ten(batch_size=4, drop_last=True).train_dataloader()
    ] == [4]


def test_datamodule_shards_follow_the_stable_index():
    batches = list(ten(batch_size=2, shards=2).train_dataloader())
    # 0, 2, 4, 6, 8 are of shard 0 and 9 is of shard 1
    assert [len(batch["index"]) for batch in batches] == [2, 1, 1, 1, 1]
    assert 9 in batches[0]["index"]


def test_datamodule_without_training_set():
    with pytest.raises(RuntimeError, match="Ten has no training set"):
        Ten().train_dataloader()
    with pytest.raises(RuntimeError, match=r"Ten has no training set; call setup\('fit'\)"):
        Ten().num_samples


def test_state_must_fit_inside_an_epoch():
    state = ten(batch_size=2).state_dict()
    assert state == {"seed": 0, "batch_size": 2, "num_samples": 6, "epoch": 0, "position": 0}
    other = ten(batch_size=3)
    other.load_state_dict({**state, "seed": 7})
    assert other.seed == 7
    with pytest.raises(RuntimeError, match="with batch_size=2, and cannot continue with 3"):
        other.load_state_dict({**state, "position": 1})
    same_size = ten(batch_size=2)
    same_size.load_state_dict({**state, "position": 1})


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_state_inside_an_epoch_is_evaluated_on_other_data(command, tmp_path):
    saves = ModelCheckpoint(tmp_path, filename="inside", every_n_train_steps=2)
    tiny_trainer(tmp_path, [saves], False, max_steps=2).fit(TinyModule(), datamodule=TinyData())
    data = TinyData()
    data.batch_size, data.train_set = 3, None
    evaluate = getattr(tiny_trainer(tmp_path, [saves], False), command)
    evaluate(TinyModule(), datamodule=data, ckpt_path=tmp_path / "inside.ckpt")
    other = TinyData()
    other.batch_size = 3
    trainer = tiny_trainer(tmp_path, [saves], False)
    with pytest.raises(RuntimeError, match="inside epoch 0 with batch_size=4, and cannot continue"):
        trainer.fit(TinyModule(), datamodule=other, ckpt_path=tmp_path / "inside.ckpt")


def test_a_restored_seed_reaches_a_loader_made_before():
    first, second = ten(batch_size=6), ten(batch_size=6)
    loader = second.train_dataloader()
    first.seed = 3
    second.load_state_dict({**first.state_dict()})
    same(next(iter(first.train_dataloader())), next(iter(loader)))


# ---- looking at all training samples between epochs ---------------------------------------------


def indices(loader):
    return [batch["index"].tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_loader_reads_every_training_sample_once(workers):
    arguments = {"batch_size": 2, "drop_last": True, "shards": 2, "num_workers": workers}
    data = ten(eval_batch_size=4, **arguments)
    loader = data.ordered_train_dataloader()
    assert len(loader) == 2
    batches = list(loader)
    assert indices(batches) == [[0, 2, 4, 6], [8, 9]], "index is that of training"
    root = data.train_set.dataset
    for batch in batches:
        rows = batch.pop("index")
        same(root.batch(rows), batch)


def test_ordered_loader_of_some_rows_keeps_the_index_of_training():
    data = ten(batch_size=2)
    assert indices(data.ordered_train_dataloader([5, 0, 3])) == [[9, 0], [6]]
    assert indices(data.ordered_train_dataloader([])) == []
    for row in (6, -1):
        message = f"Row {row} lies outside the training set of 6 samples"
        with pytest.raises(ValueError, match=message):
            data.ordered_train_dataloader([0, row])


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_loader_does_not_augment_and_disturbs_nothing(workers):
    def stream(look):
        data = ten(batch_size=2, num_workers=workers)
        data.augment = noisy
        torch.manual_seed(7)
        seen = []
        for batch in data.train_dataloader():
            seen.append(batch)
            if look:
                before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
                (plain,) = data.ordered_train_dataloader([1, 2])
                torch.testing.assert_close(plain["image"][:, 0, 0, 0], plain["index"] / 255)
                assert torch.equal(torch.get_rng_state(), before[0])
                assert (np.random.get_state()[1] == before[1]).all()
                assert random.getstate() == before[2]
        assert data.state_dict() == ten(batch_size=2).state_dict()
        return seen

    for looked, undisturbed in zip(stream(True), stream(False), strict=True):
        same(looked, undisturbed)


def test_ordered_loader_reads_the_plain_form_of_a_training_set():
    data = ten(batch_size=6)
    plain = {**data.train_set.dataset.fields, "label": torch.full((10,), 7)}
    data.plain_train_set = Subset(ArrayDataset(**plain), data.train_set.indices)
    (batch,) = data.ordered_train_dataloader([4, 1])
    assert batch["label"].tolist() == [7, 7]
    assert batch["index"].tolist() == [8, 2]
    assert 7 not in next(iter(data.train_dataloader()))["label"]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def test_ordered_loader_without_a_training_set_of_rows():
    with pytest.raises(RuntimeError, match="Ten has no training set"):
        Ten().ordered_train_dataloader()
    data = Ten()
    data.train_set = Stream()
    for rows in (None, [0]):
        with pytest.raises(TypeError, match="Ten serves samples by position"):
            data.ordered_train_dataloader(rows)


class Look(Callback):
    """Reads the training set at the end of every epoch."""

    def __init__(self):
        self.all, self.some, self.trained = [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.trained.append(batch["index"].tolist())

    def on_train_epoch_end(self, trainer, module):
        self.all.append(indices(trainer.datamodule.ordered_train_dataloader()))
        self.some.append(indices(trainer.datamodule.ordered_train_dataloader([2, 0, 5])))


def fit_and_look(folder, looks=True, **settings):
    data = TinyData(eval_batch_size=9)
    data.train_set = Subset(data.train_set, range(22, -1, -1))
    torch.manual_seed(0)
    look, module = Look(), TinyModule()
    if not looks:
        look.on_train_epoch_end = lambda *_: None
    tiny_trainer(folder, [look], False, **settings).fit(module, datamodule=data)
    parameters = [p.detach().clone() for p in module.parameters()]
    return look.all, look.some, look.trained, parameters


def test_looking_between_epochs_on_one_process_and_two_ranks(two_ranks, tmp_path):
    whole, some, trained, parameters = fit_and_look(tmp_path)
    _, _, undisturbed, expected = fit_and_look(tmp_path, looks=False)
    assert trained == undisturbed
    assert all(map(torch.equal, parameters, expected))
    order = list(range(22, -1, -1))
    assert whole == [[order[:9], order[9:18], order[18:]]] * 2
    assert some == [[[20, 22, 17]]] * 2
    zero, one = two_ranks(fit_and_look, tmp_path, devices=2, strategy="ddp")
    for looked, alone in ((0, whole), (1, some)):
        for epoch, expected_batches in enumerate(alone):
            parts = zip(zero[looked][epoch], one[looked][epoch], strict=True)
            assert [left + right for left, right in parts] == expected_batches
    assert [len(batch) for batch in zero[0][0]] == [5, 5, 3], "nothing is padded"
    assert [left + right for left, right in zip(zero[2], one[2], strict=True)] == trained
