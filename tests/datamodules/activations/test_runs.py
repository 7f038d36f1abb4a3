"""Whole runs on activations: ranks, restarts and the position of the buffer."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from datamodules import Activations
from tests.helpers.configs import one_of_many
from tests.helpers.language import tiny_causal
from tests.helpers.runs import (
    differences,
    fit,
    fit_in_child,
    fit_on_two_ranks,
    stop_on_two_ranks,
    terms,
)

SMALL = ["--data.buffer_tokens=96", "--data.shards=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_causal()
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 12)
    return folder


def command(folder: Path, root: Path, *more: str) -> list[str]:
    return [
        "--allow=tests",
        "--model=tests.helpers.language.Rebuild",
        "--data=Activations",
        f"--data.model={folder}",
        f"--data.text={folder / 'text.txt'}",
        "--data.hook_point=model.layers.0",
        "--data.context_length=9",
        "--data.contexts_per_forward=4",
        "--data.batch_size=24",
        "--data.val_size=30",
        "--trainer.max_epochs=2",
        "--trainer.logger=false",
        "--trainer.accelerator=cpu",
        # said, or a checkpoint of two ranks would bring its own
        "--trainer.devices=1",
        "--trainer.strategy=auto",
        "--last_checkpoint.every_n_train_steps=3",
        f"--run_folder={root}",
        *more,
    ]


def close(whole, other):
    steps = {s["step"]: s for s in whole.steps}
    for step in other.steps:
        assert step["index"] == steps[step["step"]]["index"]
        assert terms(step) == pytest.approx(terms(steps[step["step"]]), abs=1e-9)


@pytest.mark.parametrize("workers", [one_of_many(0, quick=False), 2])
def test_a_killed_run_goes_on_with_the_same_buffer(folder, tmp_path, workers):
    more = [*SMALL, f"--data.num_workers={workers}"]
    code, whole = fit_in_child(command(folder, tmp_path / "whole", *more), tmp_path / "w.pt")
    assert code == 0
    args = command(folder, tmp_path / "killed", *more)
    # 472 rows are 20 batches; 31 lies inside a window of the second epoch
    assert fit_in_child(args, tmp_path / "n.pt", kill_at=31)[0] == -signal.SIGKILL
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    code, resumed = fit_in_child([*args, f"--ckpt_path={last}"], tmp_path / "r.pt")
    assert code == 0
    assert 0 < len(resumed.steps) < 20
    assert whole.steps[-len(resumed.steps) :] == resumed.steps
    assert differences(whole.parameters, resumed.parameters) == []
    assert differences(whole.optimizer, resumed.optimizer) == []
    assert whole.metrics == resumed.metrics


@pytest.mark.parametrize("cached", [one_of_many(False, quick=False), True])
def test_two_ranks_take_the_same_steps_and_take_over(folder, tmp_path, two_ranks, cached):
    more = ["--trainer.precision=64-true", "--data.buffer_tokens=96"]
    more += [f"--data.cache_dir={tmp_path / 'cache'}"] if cached else ["--data.shards=2"]
    one = fit(command(folder, tmp_path / "one", *more))
    two = two_ranks(fit_on_two_ranks, command(folder, tmp_path / "two", *more))[0]
    # of 15 groups one shard of two has 8, which are 256 rows less the 8 that the last group lacks
    assert len(one.steps) == len(two.steps) == (40 if cached else 42)
    close(one, two)
    assert one.metrics == pytest.approx(two.metrics, abs=1e-9)
    # two, stopped by a signal, go on as one
    args = command(folder, tmp_path / "stopped", *more)
    two_ranks(stop_on_two_ranks, args, terminate_at=25)
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    resumed = fit([*args, f"--ckpt_path={last}"])
    assert len(one.steps) - len(resumed.steps) in (25, 26)
    close(one, resumed)


def prepared(folder, cache):
    """Return what this rank sees: computed groups, and a sample."""
    data = Activations(
        model=str(folder),
        text=str(folder / "text.txt"),
        hook_point="model.layers.0",
        context_length=9,
        contexts_per_forward=4,
        batch_size=24,
        shards=2,
        cache_dir=cache,
    )
    calls = []
    from datamodules.activations import source
    from datamodules.activations.source import Forward

    compute, size = Forward.group, source.FILE_BYTES
    source.FILE_BYTES = 3000  # several files
    Forward.group = lambda self, number: calls.append(number) or compute(self, number)
    try:
        type(data)._rank = property(lambda self: dist.get_rank() if dist.is_initialized() else 0)
        type(data)._world_size = property(
            lambda self: dist.get_world_size() if dist.is_initialized() else 1
        )
        data.setup()
        list(data.train_dataloader())
        return calls, data.sample(64), data.normalizations["activation"].scale
    finally:
        Forward.group, source.FILE_BYTES = compute, size
        del type(data)._rank, type(data)._world_size


@pytest.mark.parametrize("cached", [False, True])
def test_no_group_is_computed_on_two_ranks(folder, tmp_path, two_ranks, cached):
    caches = [str(tmp_path / name) if cached else None for name in ("two", "one")]
    (first, sample, scale), (second, other, other_scale) = two_ranks(prepared, folder, caches[0])
    assert first
    assert second
    assert not set(first) & set(second)
    assert len(first) + len(second) == (17 if cached else 15)
    alone = prepared(folder, caches[1])
    assert scale == other_scale == alone[2]
    for name, value in alone[1].items():
        assert torch.equal(sample[name], value)
        assert torch.equal(other[name], value)
    if cached:
        for path in Path(caches[1]).iterdir():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def refusal(folder):
    with pytest.raises(ValueError, match=r"each of the 2 ranks would compute all activations"):
        fit(command(folder, folder / "none", "--trainer.devices=2", "--trainer.strategy=ddp"))


def test_ranks_without_shards_are_refused(folder, two_ranks):
    two_ranks(refusal, folder)
