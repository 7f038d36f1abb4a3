import os
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.distributed.collectives import barrier, rank, world_size
from framework.distributed.sample_state import SampleState, read_rows, write_rows

N = 11
LAYOUTS = ["replicated", "exchange", "memmap", "local"]
SHARDED = LAYOUTS[1:]
DTYPES = [torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]
EVEN = torch.arange(0, N, 2)


def values_of(index, step, dtype):
    """Rows that tell position, sample and step apart."""
    place = torch.arange(len(index))
    return torch.stack([index + 0.25 * step, place + 0.5 * step], 1).sub(3).to(dtype)


def slices(index):
    """Return this rank's positions of the global batch: contiguous, or by owner for ``local``."""
    return torch.tensor_split(torch.arange(len(index)), world_size())[rank()]


def run(layout, dtype, batches, folder=None, **arguments):
    """Write batches, read each before, and return all that was read and the table at the end."""
    state = SampleState(N, (2,), fill=1, dtype=dtype, layout=layout, directory=folder, **arguments)
    seen = []
    for step, index in enumerate(batches):
        own = slices(index)
        if layout == "local":
            own = torch.nonzero(index % world_size() == rank()).flatten()
        rows = state.read(index[own])
        if layout == "memmap":
            state.barrier()
        state.write(index[own], values_of(index, step, dtype)[own])
        if layout == "memmap":
            state.barrier()
        seen.append((own, rows))
    everything = torch.arange(N)
    if layout == "local":
        everything = everything[everything % world_size() == rank()]
    return seen, (everything, state.read(everything))


def plain(dtype, batches):
    """The meaning of a table, in six lines."""
    table = torch.full((N, 2), 1, dtype=dtype)
    seen = []
    for step, index in enumerate(batches):
        seen.append(table[index])
        for i, row in zip(index.tolist(), values_of(index, step, dtype), strict=True):
            table[i] = row
    return seen, table


def check(answers, dtype, batches):
    expected, table = plain(dtype, batches)
    for seen, (which, rows) in answers:
        assert rows.dtype == dtype
        assert torch.equal(rows, table[which])
        for (own, got), old in zip(seen, expected, strict=True):
            assert torch.equal(got, old[own])
    for step, index in enumerate(batches):
        assert sum(len(seen[step][0]) for seen, _ in answers) == len(index)


BATCHES = {
    "permuted": [[3, 1, 7, 2, 10], [9, 1, 0, 4, 8], [1, 10, 3]],
    "duplicates": [[5, 5, 2, 5, 2, 2], [2, 2, 2, 2], [5, 2]],
    "empty slices": [[4], [], [0], [1, 2, 3]],
}


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_process_and_two_ranks_hold_the_same_table(two_ranks, layout, dtype, batches):
    batches = [torch.tensor(batch, dtype=torch.int64) for batch in batches]
    check([run(layout, dtype, batches)], dtype, batches)
    check(two_ranks(run, layout, dtype, batches), dtype, batches)


def run_all(layout, cases):
    return [run(layout, torch.float32, batches) for batches in cases]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_batches(two_ranks, layout):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(0, 9, (20, 3), generator=generator).tolist()
    cases = [[torch.randint(N, (b,), generator=generator) for b in case] for case in sizes]
    answers = two_ranks(run_all, layout, cases)
    for batches, both in zip(cases, zip(*answers, strict=True), strict=True):
        check(both, torch.float32, batches)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.lists(st.lists(st.integers(0, N - 1), max_size=8), max_size=4))
def test_the_last_of_equal_indices_is_kept(layout, batches):
    batches = [torch.tensor(batch, dtype=torch.int64) for batch in batches]
    check([run(layout, torch.float32, batches)], torch.float32, batches)


def test_scalar_rows_and_detached_values():
    state = SampleState(3, fill=2.5)
    weight = torch.ones(1, requires_grad=True)
    state.write(torch.tensor([1]), 4 * weight)
    rows = state.read(torch.tensor([1, 0]))
    assert rows.tolist() == [4.0, 2.5]
    assert not rows.requires_grad
    rows.zero_()  # a copy
    assert state.read(torch.tensor([1])) == 4
    state.fill_(-1)
    assert state.read(torch.arange(3)).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("layout", ["replicated", "local", "exchange"])
def test_a_device_is_not_asked_for_numbers(layout):
    # tensors without numbers refuse what a GPU would be waited for
    state = SampleState(N, (2,), layout=layout, device="meta")
    index = torch.arange(4, device="meta")
    state.write(index, torch.zeros(4, 2, device="meta"))
    assert state.read(index).shape == (4, 2)


def both_tables(layout, folder):
    """Write and read two tables at once, on this rank's rows of two batches."""
    options = {"layout": layout, "directory": folder}
    tables = [SampleState(N, (2,), **options), SampleState(N, dtype=torch.int32, **options)]
    for batch in ([5, 5, 2, 5, 2, 2], [2, 9]):
        index = torch.tensor(batch)
        own = slices(index)
        rows = values_of(index, 1, torch.float32)
        write_rows(tables, index[own], [rows[own], 10 * torch.arange(len(index))[own]])
        tables[0].barrier()
    return read_rows(tables, torch.arange(N)), [table.read(torch.arange(N)) for table in tables]


@pytest.mark.parametrize("layout", ["replicated", "exchange", "memmap"])
def test_tables_are_written_and_read_together(two_ranks, layout, tmp_path):
    whole, _ = both_tables(layout, tmp_path)
    assert whole[1].tolist() == [0, 0, 0, 0, 0, 30, 0, 0, 0, 10, 0]
    for together, each in two_ranks(both_tables, layout, tmp_path):
        for expected, found, alone in zip(whole, together, each, strict=True):
            assert torch.equal(found, expected)
            assert torch.equal(found, alone)


# ---- wrong input ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bad", [-1, N, 10**9])
def test_index_outside(layout, bad):
    state = SampleState(N, layout=layout)
    index = torch.tensor([0, bad])
    sentence = re.escape(f"Index {bad} lies outside the table of N={N} samples.")
    with pytest.raises(IndexError, match=sentence):
        state.read(index)
    with pytest.raises(IndexError, match=sentence):
        state.write(index, torch.zeros(2))
    assert state.read(torch.arange(N)).count_nonzero() == 0


def test_wrong_shapes():
    state = SampleState(N, (2,))
    with pytest.raises(
        ValueError, match=r"takes \(1, 2\) for 1 indices, got values of shape \(2,\)"
    ):
        state.write(torch.tensor([0]), torch.zeros(2))
    for index in (torch.tensor(0), torch.tensor([0.0]), torch.tensor([0], dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"index must be \(B,\) int64"):
            state.read(index)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_samples": 0}, "A table of 0 rows"),
        ({"num_samples": 2, "shape": (0,)}, r"shape \(0,\) is empty"),
        ({"num_samples": 2, "layout": "shared"}, "layout must be one of"),
        ({"num_samples": 2, "shards": 2}, "belongs to layout='local'"),
        ({"num_samples": 2, "layout": "memmap", "device": "meta"}, "lies on the CPU, not on meta"),
    ],
)
def test_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        SampleState(**arguments)


def read_foreign():
    state = SampleState(N, layout="local")
    with pytest.raises(IndexError, match=f"Sample {1 - rank()} belongs to rank {1 - rank()}, not"):
        state.read(torch.tensor([rank(), 1 - rank()]))
    with pytest.raises(IndexError, match="needs a data module with shards=2"):
        state.write(torch.tensor([1 - rank()]), torch.zeros(1))
    with pytest.raises(ValueError, match="must be a multiple of the 2 ranks"):
        SampleState(N, layout="local", shards=3)


def test_local_refuses_samples_of_other_ranks(two_ranks):
    two_ranks(read_foreign)


# ---- where the memory is --------------------------------------------------------------------


def allocated(layout):
    state = SampleState(N, (2,), layout=layout)
    return len(state.shard() if layout != "replicated" else state.read(torch.arange(N)))


@pytest.mark.parametrize("layout", ["exchange", "local"])
def test_ranks_share_the_memory(two_ranks, layout):
    assert two_ranks(allocated, layout) == [6, 5]


def test_memmap_leaves_no_file(two_ranks, tmp_path):
    for answer in [[run("memmap", torch.float32, [EVEN], tmp_path)]]:
        check(answer, torch.float32, [EVEN])
    check(two_ranks(run, "memmap", torch.float32, [EVEN], tmp_path), torch.float32, [EVEN])
    assert list(tmp_path.iterdir()) == []


def no_room(folder):
    with pytest.raises(OSError, match=r"GB free, not 4000000\.0 GB"):
        SampleState(10**9, (10**6,), layout="memmap", directory=folder)
    barrier()


def test_memmap_without_room_is_refused_on_every_rank(two_ranks, tmp_path):
    two_ranks(no_room, tmp_path)
    assert list(tmp_path.iterdir()) == []


def on_two_nodes():
    import platform

    name, platform.node = platform.node, lambda: f"node{rank()}"
    try:
        with pytest.raises(ValueError, match=r"they are on \['node0', 'node1'\]: use 'exchange'"):
            SampleState(N, layout="memmap")
    finally:
        platform.node = name


def test_memmap_refuses_several_nodes(two_ranks):
    two_ranks(on_two_nodes)


# ---- checkpoints ----------------------------------------------------------------------------


def test_replicated_state_dict_is_a_copy():
    state = SampleState(N, (2,), dtype=torch.float16)
    state.write(EVEN, values_of(EVEN, 1, torch.float16))
    saved = state.state_dict()
    state.fill_(0)
    other = SampleState(N, (2,), dtype=torch.float16)
    other.load_state_dict(saved)
    assert torch.equal(other.read(EVEN), values_of(EVEN, 1, torch.float16))
    with pytest.raises(ValueError, match=r"is \(11, 2\) torch.float16, but this run needs \(11,\)"):
        SampleState(N).load_state_dict(saved)
    for method in (other.save_shard, other.load_shards):
        with pytest.raises(RuntimeError, match="not for layout 'replicated'"):
            method("nowhere", "name")
    with pytest.raises(RuntimeError, match="not for layout 'exchange'"):
        SampleState(N, layout="exchange").state_dict()


def write_and_save(layout, folder, shards=None):
    state = SampleState(N, (2,), dtype=torch.float16, layout=layout, shards=shards)
    index = state.own_rows()[rank() :]
    state.write(index, values_of(index, 0, torch.float16))
    state.save_shard(folder, "SAF.history")
    return state.own_rows(), state.shard().clone()


def load_and_save(layout, source, target, shards=None):
    state = SampleState(N, (2,), fill=7, dtype=torch.float16, layout=layout, shards=shards)
    state.load_shards(source, "SAF.history")
    state.save_shard(target, "SAF.history")
    return state.own_rows(), state.shard().clone()


def whole(answers):
    table = torch.zeros(N, 2, dtype=torch.float16)
    for rows, values in answers:
        table[rows] = values
    assert sorted(torch.cat([rows for rows, _ in answers]).tolist()) == list(range(N))
    return table


@pytest.mark.parametrize("layout", SHARDED)
@pytest.mark.parametrize("then", SHARDED)
def test_the_table_moves_between_numbers_of_ranks(two_ranks, tmp_path, layout, then):
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    first = whole([write_and_save(layout, one)])
    assert first.count_nonzero() > N
    assert torch.equal(whole(two_ranks(load_and_save, then, one, two)), first)
    assert torch.equal(whole([load_and_save(layout, two, three)]), first)
    assert sorted(p.name for p in two.iterdir()) == [f"SAF.history-{r}-of-2.pt" for r in (0, 1)]
    assert [p.read_bytes() for p in three.iterdir()] == [p.read_bytes() for p in one.iterdir()]


def test_two_ranks_write_what_one_process_reads(two_ranks, tmp_path):
    for layout in SHARDED:
        written = whole(two_ranks(write_and_save, layout, tmp_path / layout))
        back = whole([load_and_save("exchange", tmp_path / layout, tmp_path / "copy")])
        assert torch.equal(back, written)


def test_local_follows_the_shards_of_the_data_module(two_ranks, tmp_path):
    first = whole([write_and_save("local", tmp_path / "a", 4)])
    answers = two_ranks(load_and_save, "local", tmp_path / "a", tmp_path / "b", 4)
    assert [rows.tolist() for rows, _ in answers] == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10]]
    assert torch.equal(whole(answers), first)
    assert torch.equal(whole([load_and_save("exchange", tmp_path / "b", tmp_path / "c")]), first)


def test_truncated_or_missing_shard(two_ranks, tmp_path):
    two_ranks(write_and_save, "exchange", tmp_path)
    path = tmp_path / "SAF.history-1-of-2.pt"
    content = path.read_bytes()
    state = SampleState(N, (2,), fill=7, dtype=torch.float16, layout="exchange")
    for size in (0, 20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged or incomplete")):
            state.load_shards(tmp_path, "SAF.history")
    torch.save({"num_samples": N, "shards": 2, "rows": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match="not a whole shard"):
        state.load_shards(tmp_path, "SAF.history")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"The shard {path} is missing; ")):
        state.load_shards(tmp_path, "SAF.history")
    with pytest.raises(FileNotFoundError, match="no shard of 'other'"):
        state.load_shards(tmp_path, "other")
    with pytest.raises(FileNotFoundError, match="no shard"):
        state.load_shards(tmp_path / "nowhere", "SAF.history")
    assert (state.shard() == 7).all()


def test_shards_of_another_table_or_two_runs(tmp_path):
    write_and_save("exchange", tmp_path)
    for other in (
        SampleState(N + 1, (2,), dtype=torch.float16, layout="exchange"),
        SampleState(N, (3,), dtype=torch.float16, layout="exchange"),
        SampleState(N, (2,), layout="exchange"),
    ):
        with pytest.raises(ValueError, match=r"belongs to a table of 11 rows of shape \(2,\)"):
            other.load_shards(tmp_path, "SAF.history")
    os.link(tmp_path / "SAF.history-0-of-1.pt", tmp_path / "SAF.history-0-of-3.pt")
    with pytest.raises(ValueError, match=r"holds shards of 'SAF.history' by \[1, 3\] ranks"):
        other.load_shards(tmp_path, "SAF.history")


def exchanged() -> SampleState:
    return SampleState(num_samples=6, shape=(2,), layout="exchange")


@pytest.mark.parametrize(
    "claim",
    [
        {"num_samples": 10**15},
        {"num_samples": -1},
        {"num_samples": "x"},
        {"shards": 0},
        {"shards": -3},
        {"shards": 10**30},
        {"rows": torch.zeros(())},
        {"rows": [1, 2]},
        {"rows": torch.zeros(5, 2)},
    ],
)
def test_what_a_shard_claims_is_compared_before_memory_is_taken(tmp_path, claim):
    exchanged().save_shard(tmp_path, "past")
    (path,) = tmp_path.iterdir()
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, **claim}, path)
    with pytest.raises(
        ValueError, match=r"past-0-of-1\.pt (is not a whole shard|belongs to a tab)"
    ):
        exchanged().load_shards(tmp_path, "past")


def test_a_name_may_claim_any_number_of_ranks(tmp_path):
    (tmp_path / f"past-0-of-{10**18}.pt").touch()
    with pytest.raises(FileNotFoundError, match=rf"The shard .*past-1-of-{10**18}\.pt is missing"):
        exchanged().load_shards(tmp_path, "past")
