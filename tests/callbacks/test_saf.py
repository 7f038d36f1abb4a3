"""SAF finds each sample's own past on any number of ranks, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, IterableDataset

from callbacks.saf import SAF
from framework.data.samplers import GlobalBatchSampler
from framework.objectives.errors import IncompatibleError
from framework.training.objectives_callback import ObjectivesCallback
from framework.utilities.randomness import stable_seed
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

STORAGES = ["memmap", "exchange", "cpu", "device"]


class Module(TinyModule):
    """The tiny module, saying what shape its predictions have, in float64 and with plain SGD."""

    prediction_shape: tuple[int, ...] | None = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network.reset_parameters()


class Watch(ObjectivesCallback):
    """Remembers every step's outputs and what stands in the objectives after SAF."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_objectives(self, trainer, module, objectives, batch):
        self.steps.append(
            {
                "epoch": trainer.current_epoch,
                "index": objectives.index.clone(),
                "logits": objectives.predictions.detach().clone(),
                "saf": objectives.per_sample.get("saf"),
                "valid": objectives.logs.get("saf_valid"),
            }
        )

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[-1]["terms"] = {n: float(v) for n, v in pl_module.term_values.items()}


class LagSlots(SAF):
    """SAF with as many slots as epochs of lag, which suffice on one process."""

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)
        del self.history[-1], self.written[-1]


def tiny_fit(folder, *callbacks, module=None, data=None, epochs=6, **settings):
    module = Module() if module is None else module
    watch = Watch()
    trainer = tiny_trainer(
        folder,
        [*callbacks, watch],
        False,
        **{"precision": "64-true", "max_epochs": epochs, "limit_val_batches": 0, **settings},
    )
    trainer.fit(module, TinyData() if data is None else data)
    return watch.steps, module


def by_hand(steps, lag, start, end, temperature=5.0):
    """Return (term, valid fraction) of every step, from the outputs that were seen."""
    seen: dict[tuple[int, int], torch.Tensor] = {}
    expected = []
    for step in steps:
        epoch, total, valid = step["epoch"], 0.0, 0
        for i, z in zip(step["index"].tolist(), step["logits"], strict=True):
            past = seen.get((epoch - lag, i))
            if past is not None:
                q, p = (past / temperature).softmax(0), (z / temperature).softmax(0)
                total += temperature**2 * float((q * (q.log() - p.log())).sum())
                valid += 1
        rows = len(step["index"])
        expected.append((total / rows, valid / rows) if start < epoch < end else None)
        seen |= {(epoch, i): z for i, z in zip(step["index"].tolist(), step["logits"], strict=True)}
    return expected


def assert_by_hand(steps, lag, start, end):
    fractions = set()
    for step, expected in zip(steps, by_hand(steps, lag, start, end), strict=True):
        if expected is None:
            assert "saf" not in step["terms"]
            continue
        assert step["terms"]["saf"] == pytest.approx(expected[0], abs=1e-12)
        assert step["terms"]["saf_valid"] == pytest.approx(expected[1])
        rest = step["terms"]["classification"] + 0.5 * step["terms"]["size"]
        assert step["terms"]["loss"] == pytest.approx(rest + 0.3 * expected[0], abs=1e-12)
        fractions.add(expected[1])
    return fractions


# ---- the term ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("storage", ["auto", *STORAGES])
def test_the_term_is_that_of_the_paper(lag, storage, tmp_path):
    saf = SAF(lag_epochs=lag, start_epoch=2, dtype="float64", storage=storage)
    steps, _ = tiny_fit(tmp_path, saf)
    assert assert_by_hand(steps, lag, 2, 99) == {1.0}
    assert steps[-1]["terms"]["saf"] > 1e-6


def test_rows_without_a_past_count_as_zero_in_the_mean(tmp_path):
    saf = SAF(lag_epochs=2, start_epoch=1, dtype="float64")
    steps, _ = tiny_fit(tmp_path, saf, limit_train_batches=4)
    assert len(assert_by_hand(steps, 2, 1, 99)) > 2, "no partly valid batch was seen"


def test_gradient_of_a_row_without_a_past_is_zero(tmp_path):
    gradients = []

    class Gradients(ObjectivesCallback):
        def on_objectives(self, trainer, module, objectives, batch):
            if "saf" in objectives.per_sample:
                term, logits = objectives.per_sample["saf"].sum(), objectives.predictions
                (gradient,) = torch.autograd.grad(term, logits, retain_graph=True)
                gradients.append((gradient.abs().sum(1) > 0, objectives.per_sample["saf"] > 0))

    saf = SAF(lag_epochs=2, start_epoch=1, dtype="float64")
    tiny_fit(tmp_path, saf, Gradients(), limit_train_batches=4)
    moved = torch.cat([m for m, _ in gradients])
    assert torch.equal(moved, torch.cat([v for _, v in gradients]))
    assert 0 < moved.sum() < len(moved)


def test_both_ends_are_strict(tmp_path):
    saf = SAF(lag_epochs=1, start_epoch=1, end_epoch=4, dtype="float64")
    steps, _ = tiny_fit(tmp_path, saf)
    assert {s["epoch"] for s in steps if "saf" in s["terms"]} == {2, 3}
    assert_by_hand(steps, 1, 1, 4)


def test_as_many_slots_as_epochs_of_lag_suffice_on_one_process(tmp_path):
    settings = {"lag_epochs": 2, "start_epoch": 1}
    few, few_module = tiny_fit(tmp_path, LagSlots(**settings))
    many, many_module = tiny_fit(tmp_path, SAF(**settings))
    assert [s["terms"] for s in few] == [s["terms"] for s in many]
    assert torch.equal(few_module.network.weight, many_module.network.weight)
    assert many[-1]["terms"]["saf"] > 1e-6


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    def run(rows, accumulate):
        data = TinyData()
        data.batch_size = rows
        saf = SAF(lag_epochs=2, start_epoch=1, dtype="float64")
        return tiny_fit(tmp_path, saf, data=data, accumulate_grad_batches=accumulate)

    small, small_module = run(4, 2)
    large, large_module = run(8, 1)
    assert_by_hand(small, 2, 1, 99)
    pairs = [
        (a["terms"]["saf"] + b["terms"]["saf"]) / 2
        for a, b in zip(small[12::2], small[13::2], strict=True)
    ]
    assert pairs == pytest.approx([s["terms"]["saf"] for s in large[6:]], abs=1e-12)
    assert torch.allclose(small_module.network.weight, large_module.network.weight, atol=1e-12)


def test_reset_forgets(tmp_path):
    class Relabel(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 4:
                saf.reset()

    saf = SAF(lag_epochs=2, start_epoch=1)
    steps, _ = tiny_fit(tmp_path, saf, Relabel(), epochs=8)
    valid = {s["epoch"]: s["terms"]["saf_valid"] for s in steps if "saf" in s["terms"]}
    assert valid == {2: 1, 3: 1, 4: 0, 5: 0, 6: 1, 7: 1}
    assert all(s["terms"]["saf"] == 0 for s in steps if s["epoch"] in (4, 5))


# ---- what must not enter the history -------------------------------------------------------------


class Spoiled(Module):
    """Says something absurd of sample 7 in epoch 0, without being trained on it."""

    absurd = float("nan")

    def objectives(self, batch):
        objectives = super().objectives(batch)
        if self.current_epoch == 0:
            logits = objectives.predictions.clone()
            logits[batch["index"] == 7, 1] = self.absurd
            objectives.predictions = logits
        return objectives


@pytest.mark.parametrize("absurd", [float("nan"), float("inf"), -float("inf"), 1e6])
def test_what_is_not_finite_is_not_remembered(absurd, tmp_path):
    class Tables(Callback):
        def on_train_end(self, trainer, pl_module):
            everyone = torch.arange(24)
            tables.extend(t.read(everyone) for t in saf.history)

    tables: list[torch.Tensor] = []
    saf = SAF(lag_epochs=1, start_epoch=0)
    module = Spoiled()
    module.absurd = absurd
    steps, module = tiny_fit(tmp_path, saf, Tables(), module=module, epochs=3)
    assert all(torch.isfinite(t).all() for t in tables)
    assert torch.isfinite(module.network.weight).all()
    for step in steps[6:]:
        seven = step["index"] == 7
        masked = seven & (step["epoch"] == 1)
        assert torch.equal(step["saf"] == 0, masked)
        assert step["terms"]["saf_valid"] == 1 - float(masked.double().mean())


# ---- a sample that comes twice in an epoch -------------------------------------------------------


def with_duplicates(self, epoch, name, rows):
    generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch, name))
    return torch.randint(rows // 2, (rows,), generator=generator)


def test_both_visits_of_a_sample_read_the_same_past(tmp_path, monkeypatch):
    monkeypatch.setattr(GlobalBatchSampler, "_order", with_duplicates)
    saf = SAF(lag_epochs=1, start_epoch=0, dtype="float64")
    steps, _ = tiny_fit(tmp_path, saf)
    assert any(len(s["index"].unique()) < len(s["index"]) for s in steps)
    assert len(assert_by_hand(steps, 1, 0, 99)) > 1


# ---- what is refused -----------------------------------------------------------------------------


class Mixed(TinyData):
    mixes_samples = True


class Stream(IterableDataset):
    def __iter__(self):
        yield from ({"image": torch.zeros(5), "label": 0, "index": 0} for _ in range(8))


class StreamData(TinyData):
    def __init__(self):
        super().__init__()
        self.train_set = Stream()


class Foreign(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Stream(), batch_size=4)


class Silent(Module):
    provides = ("per_sample", "index")


class NoIndex(Module):
    provides = ("per_sample", "predictions")


class Regression(Module):
    prediction_shape = (1,)


class Detector(Module):
    prediction_shape = None


class Stranger(LightningModule):
    def training_step(self, batch, batch_idx):
        raise AssertionError("a step was taken")

    def configure_optimizers(self):
        return None


@pytest.mark.filterwarnings("ignore:You (defined|passed in) a `val")
@pytest.mark.parametrize(
    ("module", "data", "sentence"),
    [
        (Module, Mixed, "cannot be combined with mixup"),
        (
            Module,
            StreamData,
            "needs a trimtab DataModule with a map-style data set",
        ),
        (Module, Foreign, "needs a trimtab DataModule with a map-style data set"),
        (Silent, TinyData, "needs `predictions`, which Silent does not provide"),
        (NoIndex, TinyData, "needs `index`, which NoIndex does not provide"),
        (Detector, TinyData, "predictions of one fixed shape, which Detector does not have"),
        (Regression, TinyData, r"at least two classes, .* shape \(1,\)"),
        (
            Stranger,
            TinyData,
            "TrainingModule, which Stranger is not: add framework.losses.TrajectoryLoss",
        ),
    ],
)
def test_refused_before_the_first_step(module, data, sentence, tmp_path):
    watch = Watch()
    trainer = tiny_trainer(tmp_path, [SAF(), watch], False)
    with pytest.raises(ValueError, match=sentence) as error:
        trainer.fit(module(), data())
    assert watch.steps == []
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_a_second_saf_is_refused(tmp_path):
    with pytest.raises(IncompatibleError, match="given twice"):
        tiny_fit(tmp_path, SAF(), SAF(weight=0.1))


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"weight": -0.1}, "weight must be at least 0, got -0.1"),
        ({"weight": float("nan")}, "weight must be finite and at least 0, got nan"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be finite and positive, got inf"),
        ({"lag_epochs": 0}, "lag_epochs must be at least 1, got 0"),
        ({"lag_epochs": 3, "start_epoch": 1}, "start_epoch must be at least 2, got 1"),
        ({"start_epoch": 5, "end_epoch": 6}, "No epoch lies between start_epoch=5 and end_epoch=6"),
        ({"storage": "disk"}, "storage must be one of auto, device, cpu, .* got 'disk'"),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, float64, got 'int8'"),
        ({"save_history": "yes"}, "save_history must be one of sharded, none, got 'yes'"),
    ],
)
def test_arguments_out_of_range(argument, sentence):
    with pytest.raises(ValueError, match=sentence):
        SAF(**argument)


def test_the_earliest_start():
    assert [e for e in range(6) if SAF(lag_epochs=3, start_epoch=2, end_epoch=5).active(e)] == [
        3,
        4,
    ]
