"""Activations of a language model: what a row is, the buffer, the cache, ranks and restarts."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import pytest
import torch

from datamodules.activations import Activations
from datamodules.activations.source import Buffer, Forward
from framework.language.language_model import load_language_model
from framework.language.text import read_texts
from tests.helpers.language import tiny_causal, tiny_encoder

TEXT = "the quick brown fox jumps over the lazy dog. " * 12  # 540 letters
LENGTH = 9


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of a tiny encoder and a tiny causal model, and a text."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("encoder", tiny_encoder()), ("causal", tiny_causal())):
        model.model.save_pretrained(folder / name)
        model.tokenizer.save_pretrained(folder / name)
    (folder / "text.txt").write_text(TEXT)
    return folder


load_once = lru_cache(load_language_model)


class Loaded(Activations):
    """Takes the model that an earlier test has loaded."""

    def load_model(self):
        return load_once(self.model)


def make(models, kind="causal", **kwargs):
    point = "model.layers.0" if kind == "causal" else "encoder.layer.0"
    settings = {
        "model": str(models / kind),
        "hook_point": point,
        "text": str(models / "text.txt"),
        "context_length": LENGTH,
        "contexts_per_forward": 4,
        "batch_size": 24,
        "val_size": 30,
        "test_size": 0.05,
        "normalization": "none",
    }
    return Loaded(**settings | kwargs)


def ready(models, kind="causal", **kwargs):
    data = make(models, kind, **kwargs)
    data.setup()
    return data


def all_rows(data):
    """Return activations and indices of all three parts."""
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    batches = [batch for loader in loaders for batch in loader]
    return tuple(torch.cat([b[name] for b in batches]) for name in ("activation", "index"))


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_row_is_a_token_of_text_and_no_special_one(models, kind):
    data = ready(models, kind)
    found, index = all_rows(data)
    model = load_language_model(str(models / kind))
    prefix, suffix = model.special_tokens()
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    room = LENGTH - len(prefix) - len(suffix)
    assert sorted(index.tolist()) == list(range(540 // room * room))
    with torch.inference_mode():
        for context in (0, 5, 540 // room - 1):
            body = ids[context * room : (context + 1) * room]
            whole = model.model(
                input_ids=torch.tensor([[*prefix, *body, *suffix]]), output_hidden_states=True
            ).hidden_states[1][0]
            rows = [int((index == context * room + k).nonzero()) for k in range(room)]
            torch.testing.assert_close(found[rows], whole[len(prefix) :][:room])
            assert data.contexts[context, len(prefix) :][:room].tolist() == body
    assert data.text_positions == (len(prefix), len(prefix) + room)
    assert data.input_size == 8


def test_the_end_of_the_text_is_held_out_in_whole_contexts_that_take_turns(models):
    data = ready(models)
    # 67 contexts of 8 letters: 30 and 0.05 * 536 = 27 rows are 4 contexts each
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == [472, 32, 32]
    held = torch.arange(472, 536).view(-1, 2, 8)
    for turn, loader in enumerate((data.test_dataloader(), data.val_dataloader())):
        batches = [batch["index"] for batch in loader]
        assert [len(index) for index in batches] == [24, 8]
        assert torch.equal(torch.cat(batches), held[:, turn].flatten())
    assert data.predict_set is data.test_set


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shards", [None, 2])
def test_the_last_groups_are_held_out_for_a_guide(models, tmp_path, cached, shards):
    settings = {"shards": shards, "normalization": "constant"}
    settings |= {"cache_dir": str(tmp_path)} if cached else {}
    data, whole = ready(models, **settings), ready(models, **settings)
    values, index = all_rows(whole)
    known = dict(zip(index.tolist(), values, strict=True))
    data.hold_out(0.2)
    trained = torch.cat([batch["index"] for batch in data.train_dataloader()]).tolist()
    loader = data.guide_dataloader(24, lambda: (0, 0))
    batches = list(loader)
    guided = torch.cat([batch["index"] for batch in batches]).tolist()
    # 15 groups of 32 rows, the last of 24: three groups are a fifth
    assert sorted(guided) == list(range(384, 472))
    assert sorted(trained) == list(range(384))
    rows = torch.cat([batch["activation"] for batch in batches])
    torch.testing.assert_close(rows, torch.stack([known[i] for i in guided]))
    assert max(data.sample(10_000)["index"].tolist()) < 384
    data.load_state_dict(whole.state_dict())
    assert data.guide_set.dataset.normalizations is data.normalizations


@pytest.mark.parametrize(
    ("val", "test", "turns"), [(8, 24, "tttv"), (24, 16, "tvtvv"), (16, 0, "vv"), (0, 16, "tt")]
)
def test_turns_are_as_even_as_the_sizes_allow(models, val, test, turns):
    data = ready(models, val_size=val, test_size=test)
    where = {
        int(row) // 8: name
        for name, part in (("v", data.val_set), ("t", data.test_set))
        for row in (part.indices if part is not None else ())
    }
    assert "".join(where[k] for k in sorted(where)) == turns
    assert min(where) == 67 - len(turns)


@pytest.mark.parametrize("buffer_tokens", [32, 100, 10_000])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_small_buffer_changes_the_order_and_not_the_values(models, buffer_tokens, shards):
    whole, order = all_rows(ready(models))
    found, index = all_rows(ready(models, buffer_tokens=buffer_tokens, shards=shards))
    assert sorted(index.tolist()) == list(range(536))
    expected = torch.empty_like(whole)
    expected[order] = whole
    assert torch.equal(found, expected[index])


def counted(forward):
    """Return the list to which a forward pass adds its group."""
    calls = []
    compute = forward.group
    forward.group = lambda number: calls.append(number) or compute(number)
    return calls


def test_every_group_is_computed_once_an_epoch_and_once_at_all_if_all_fit(models):
    for buffer_tokens, per_epoch in ((96, 1), (10_000, 0)):
        data = ready(models, buffer_tokens=buffer_tokens)
        calls = counted(data._forward_pass)
        list(data.train_dataloader())
        assert sorted(calls) == list(range(15))
        list(data.train_dataloader())
        assert len(calls) == 15 * (1 + per_epoch)


def test_a_buffer_of_one_group_serves_rows_of_many(models):
    data = ready(models)
    forward = data._forward_pass
    rows = torch.randperm(536, generator=torch.Generator().manual_seed(0))
    large, small = (Buffer(forward, forward.widths(), capacity).read(rows) for capacity in (99, 1))
    assert torch.equal(large["activation"], small["activation"])
    assert Buffer(forward, forward.widths(), 3).read(rows[:0])["activation"].shape == (0, 8)


def test_a_restart_computes_only_the_window_it_stands_in(models):
    whole = list(ready(models, buffer_tokens=96).train_dataloader())
    data = ready(models, buffer_tokens=96)
    calls = counted(data._forward_pass)
    data._resume = (0, 5)  # 5 * 24 = 120 rows: inside the second window of 96
    loader = iter(data.train_dataloader())
    batch = next(loader)
    assert torch.equal(batch["activation"], whole[5]["activation"])
    assert torch.equal(batch["index"], whole[5]["index"])
    assert len(calls) == 3


def test_targets_come_from_a_second_hook_point(models):
    data = ready(
        models, hook_point="model.layers.1.mlp:input", target_hook_point="model.layers.1.mlp"
    )
    (batch,) = [b for b in data.val_dataloader() if len(b["index"]) == 24]
    mlp = data.language_model.model.get_submodule("model.layers.1.mlp")
    torch.testing.assert_close(mlp(batch["activation"]), batch["target"])
    assert (data.input_size, data.target_size) == (8, 8)


def test_constant_size_is_that_of_the_training_part(models):
    raw, index = all_rows(ready(models))
    data = ready(models, normalization="constant")
    found, _ = all_rows(data)
    train = raw[index < 472]
    scale = data.normalizations["activation"].scale
    assert scale == pytest.approx(8**0.5 / float(train.norm(dim=1).mean()))
    torch.testing.assert_close(found, raw * scale)


def test_a_sample_holds_whole_groups_spread_evenly(models):
    data = ready(models)
    found = data.sample(60)
    assert found["index"].tolist() == [*range(32), *range(7 * 32, 8 * 32)]
    raw, index = all_rows(data)
    expected = torch.empty_like(raw)
    expected[index] = raw
    assert torch.equal(found["activation"], expected[found["index"]])
    assert len(data.sample(10_000)["index"]) == 472


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_cache_gives_the_same_batches(models, tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("datamodules.activations.source.FILE_BYTES", 3000)
    plain = ready(models, buffer_tokens=100, shards=2)
    data = ready(models, buffer_tokens=100, shards=2, cache_dir=str(tmp_path), cache_dtype=dtype)
    monkeypatch.setattr(Forward, "group", None)  # nothing is computed any more
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) > 3
    assert files[-1] == "index.json"
    x, i = all_rows(data)
    monkeypatch.undo()
    y, j = all_rows(plain)
    assert torch.equal(i, j)
    if dtype == "float32":
        assert torch.equal(x, y)
    torch.testing.assert_close(x, y, atol=5e-3, rtol=1e-3)


def test_a_cache_that_was_cut_short_is_completed(models, tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.activations.source.FILE_BYTES", 3000)
    compute, calls = Forward.group, []

    def dies(self, number):
        calls.append(number)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return compute(self, number)

    monkeypatch.setattr(Forward, "group", dies)
    with pytest.raises(KeyboardInterrupt):
        ready(models, cache_dir=str(tmp_path))
    present = {path.name for path in tmp_path.iterdir()}
    assert present == {"index.json", *(f"activation-0000{k}.npy" for k in range(len(present) - 1))}
    assert len(present) >= 3
    data = ready(models, cache_dir=str(tmp_path))
    # each file holds two groups: of those of the unfinished file one is computed again
    assert len(calls) == 8 + 17 - 2 * (len(present) - 1)
    assert torch.equal(all_rows(data)[0], all_rows(ready(models))[0])
    before = len(calls)
    ready(models, cache_dir=str(tmp_path))
    assert len(calls) == before


def test_a_cache_of_something_else_is_refused(models, tmp_path):
    folder = str(tmp_path / "cache")
    ready(models, cache_dir=folder)
    for change, match in [
        ({"hook_point": "model.layers.1"}, "fields="),
        ({"context_length": 8}, "contexts="),
        ({"cache_dtype": "float16"}, "dtype='float32', and this run needs 'float16'"),
        ({"contexts_per_forward": 5}, "contexts_per_forward=4"),
    ]:
        with pytest.raises(ValueError, match=rf"holds activations with {match}"):
            ready(models, cache_dir=folder, **change)
    path = tmp_path / "cache" / "activation-00000.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ValueError, match=r"activation-00000\.npy is damaged: remove it"):
        ready(models, cache_dir=folder)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"activation-00000\.npy is damaged: remove it"):
        ready(models, cache_dir=folder)
    index = tmp_path / "cache" / "index.json"
    assert json.loads(index.read_text())["rows"] == 536
    index.write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is no JSON"):
        ready(models, cache_dir=folder)


def test_half_precision_that_overflows_is_refused(models, tmp_path, monkeypatch):
    compute = Forward.group

    def huge(self, number):
        return {name: value * 1e9 for name, value in compute(self, number).items()}

    monkeypatch.setattr(Forward, "group", huge)
    with (
        pytest.raises(ValueError, match="do not fit float16: use cache_dtype='float32'"),
        pytest.warns(RuntimeWarning, match="overflow"),
    ):
        ready(models, cache_dir=str(tmp_path), cache_dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


def test_bad_arguments_are_sentences(models, tmp_path):
    for change, match in [
        ({"hook_point": "model.layer.0"}, "no module 'model.layer.0' to hook"),
        ({"context_length": 65}, "context_length=65 is more than the 64 positions"),
        ({"shards": 5}, "shards=5 must divide batch_size=24"),
        ({"shards": 24}, "shards=24 are more than the 15 groups"),
        ({"val_size": 0.99}, "leave none of the 536 tokens of text for training"),
    ]:
        with pytest.raises(ValueError, match=match):
            ready(models, **change)
    for name in ("max_tokens", "buffer_tokens", "contexts_per_forward"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            make(models, **{name: 0})
    with pytest.raises(FileNotFoundError, match="no such text file"):
        ready(models, text=str(tmp_path / "none.txt"))


def test_another_text_cannot_continue_an_epoch(models):
    state = ready(models).state_dict() | {"position": 3}
    ready(models).load_state_dict(state)
    for change, name in [
        ({"shards": 2}, "shards=1"),
        ({"buffer_tokens": 64}, "window_groups="),
        ({"context_length": 8}, "contexts="),
    ]:
        with pytest.raises(RuntimeError, match=f"with {name}.*and cannot continue"):
            ready(models, **change).load_state_dict(state)
    ready(models, shards=2).load_state_dict(state | {"position": 0})


def test_minilm_reads_pythons_own_pages():
    data = Activations(max_tokens=126 * 40, val_size=126, test_size=126, batch_size=64)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["activation"].shape == (64, 384)
    # the root of 384, from a mean norm of 13.3
    assert float(batch["activation"].norm(dim=1).mean()) == pytest.approx(384**0.5, rel=0.05)
    assert data.normalizations["activation"].scale == pytest.approx(19.6 / 13.3, rel=0.03)
    words = data.language_model.tokenizer.decode(data.contexts[0, 1:8])
    assert words.split()[:3] == next(read_texts("pydoc")).lower().replace('"', ' " ').split()[:3]
