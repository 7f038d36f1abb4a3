"""Tasks of classes come one after the other, the same on ranks and after a resume."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import ClassIncremental, Digits, LabelNoise
from framework.data.facts import facts_of
from framework.data.task_sampling import TaskBatchSampler
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def digits(**arguments):
    data = ClassIncremental(Digits(), **{"batch_size": 32, **arguments})
    data.setup("fit")
    return data


def batches(data, epoch, rank=0, world_size=1):
    sampler = data.train_sampler()
    sampler.rank, sampler.world_size, sampler.start = rank, world_size, lambda: (epoch, 0)
    return [[row for _, row in batch] for batch in sampler]


def labels(data, rows):
    return sorted({int(data.train_set[row]["label"]) for row in rows})


def test_each_epoch_is_of_its_task_and_full():
    data = digits(tasks=2, epochs_per_task=2)
    assert data.tasks == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    for epoch, task in ((0, 0), (1, 0), (2, 1), (9, 4), (30, 4)):
        found = batches(data, epoch)
        rows = [row for batch in found for row in batch]
        assert {len(batch) for batch in found} == {32}
        assert len(found) == len(data.train_dataloader())
        assert labels(data, rows) == data.tasks[task]
        assert data.task_of_epoch(epoch) == task
        members = [r for r in range(len(data.train_set)) if r in set(rows)]
        assert len(set(rows[: len(members)])) == len(members), "none twice before all came"
    assert batches(data, 0) != batches(data, 1)
    assert batches(data, 0) == batches(data, 0)


def test_tasks_may_be_named_and_leave_classes_out():
    data = digits(tasks=[[7], [1, 3, 5]], steps_per_epoch=3)
    assert [labels(data, [row for batch in batches(data, e) for row in batch]) for e in (0, 1)] == [
        [7],
        [1, 3, 5],
    ]
    assert len(batches(data, 0)) == 3
    uneven = digits(tasks=4)
    assert uneven.tasks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_slices_of_ranks_are_the_global_batches():
    data = digits(batch_size=5)
    whole = batches(data, 3)
    parts = zip(*(batches(data, 3, rank, 3) for rank in range(3)), strict=True)
    assert [[row for rows in part for row in rows] for part in parts] == whole


def test_index_and_facts_are_those_of_the_wrapped_data():
    data, plain = digits(), Digits()
    plain.setup("fit")
    batch = next(iter(data.train_dataloader()))
    for row, index in enumerate(batch["index"].tolist()):
        assert torch.equal(batch["image"][row], plain.train_set.dataset[index]["image"])
    assert facts_of(data) == facts_of(plain)
    assert data.num_samples == plain.num_samples
    assert len(data.val_set) == len(plain.val_set)
    assert len(data.test_set) == len(plain.test_set)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_goes_from_task_to_task_and_resumes_inside_one(tmp_path):
    class Module(TinyModule):
        seen: list

        def training_step(self, batch, batch_idx):
            self.seen.append(sorted(set(batch["label"].tolist())))
            return super().training_step(batch, batch_idx)

    def run(saved, **more):
        torch.manual_seed(0)
        module = Module()
        module.seen = []
        data = ClassIncremental(TinyData(), tasks=[[1], [0, 2]], batch_size=4, steps_per_epoch=4)
        keep = ModelCheckpoint(
            tmp_path / f"{saved}", "{step}", save_top_k=-1, every_n_train_steps=saved
        )
        tiny_trainer(tmp_path, [keep], False).fit(module, data, **more)
        return module

    whole = run(1)
    assert whole.seen[:4] == [[1]] * 4
    assert set().union(*map(set, whole.seen[4:])) == {0, 2}
    for stop in (2, 4, 5):
        second = run(100 + stop, ckpt_path=tmp_path / "1" / f"step={stop}.ckpt", weights_only=True)
        assert second.seen == whole.seen[stop:]
        for name, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[name])


def test_a_checkpoint_of_other_tasks_is_refused():
    state = digits(tasks=5).state_dict()
    with pytest.raises(RuntimeError, match=r"written with tasks=\[\[0, 1, 2, 3, 4\], "):
        digits(tasks=2).load_state_dict(state)
    data = digits(tasks=5, epochs_per_task=2)
    with pytest.raises(RuntimeError, match="epochs_per_task=1, and its tasks cannot go on with 2"):
        data.load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": 0}, "tasks must be at least 1, got 0"),
        ({"tasks": [[0], []]}, "none empty and each class in one"),
        ({"tasks": [[0, 1], [1, 2]]}, "each class in one of them"),
        ({"tasks": [[0, 12]]}, "Digits has no training rows of class 12"),
        ({"epochs_per_task": 0}, "epochs_per_task must be at least 1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1"),
        ({"shards": 2}, "full batches of all rows of a task: drop shards"),
        ({"drop_last": True}, "drop drop_last"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)


def test_data_without_tasks_are_refused():
    with pytest.raises(ValueError, match="switch its mixup off"):
        ClassIncremental(Digits(mixup=0.2))
    noisy = ClassIncremental(Digits(label_noise=LabelNoise("pair", rate=0.3)))
    with pytest.raises(ValueError, match="drop Digits's label_noise"):
        noisy.setup("fit")


def test_too_few_epochs_are_warned_of(tmp_path):
    data = ClassIncremental(TinyData(), tasks=1, batch_size=4)
    with pytest.warns(UserWarning, match=r"set trainer\.max_epochs to 3"):
        tiny_trainer(tmp_path, [], False, max_epochs=1).fit(TinyModule(), data)


def test_a_sampler_needs_rows():
    with pytest.raises(ValueError, match="task 1 of 2 has none"):
        TaskBatchSampler([torch.tensor([1]), torch.tensor([], dtype=torch.int64)], 2)
    with pytest.raises(ValueError, match="there is no task"):
        TaskBatchSampler([], 2)
