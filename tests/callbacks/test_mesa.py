"""MESA's average is the recursion of the paper, once per optimizer step, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from callbacks.mesa import MESA
from framework.objectives.errors import IncompatibleError
from framework.training.objectives_callback import ObjectivesCallback
from tests.helpers.configs import arguments, one_of_many
from tests.helpers.runs import differences, fit, terms
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.test_parity import FLOAT64, PLAIN_SGD, compare
from tests.test_resume import assert_same_bits, kill_and_resume


class Module(TinyModule):
    """The tiny module with batch norm and dropout, which tell the two modes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
            )


def snapshot(module):
    return {n: v.detach().clone() for n, v in module.state_dict().items()}


class Watch(ObjectivesCallback):
    """Remembers weights, the average and MESA's term, and checks the term by hand."""

    def __init__(self, mesa: MESA) -> None:
        self.mesa = mesa
        self.steps: list[dict[str, Any]] = []

    def on_train_start(self, trainer, pl_module):
        self.first = snapshot(pl_module)

    def on_objectives(self, trainer, module, objectives, batch):
        average = self.mesa.average
        assert not any(part.training for part in average.modules())
        assert not any(p.requires_grad for p in average.parameters())
        step = {"epoch": trainer.current_epoch, "term": objectives.per_sample.get("mesa")}
        if step["term"] is not None:
            with torch.no_grad():
                q = (average(batch["image"]).double() / 5).softmax(1)
            p = (objectives.predictions.detach().double() / 5).softmax(1)
            step["by hand"] = 25 * (q * (q.log() - p.log())).sum(1)
            step["weight"] = objectives.weights["mesa"]
        self.steps.append(step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[-1] |= {
            "weights": snapshot(pl_module),
            "average": snapshot(self.mesa.average),
            "global_step": trainer.global_step,
        }


def tiny_fit(folder, mesa, *, module=None, data=None, epochs=3, **settings):
    watch = Watch(mesa)
    module = Module() if module is None else module
    settings = {"precision": "64-true", "limit_val_batches": 0, **settings}
    trainer = tiny_trainer(folder, [mesa, watch], False, max_epochs=epochs, **settings)
    trainer.fit(module, TinyData() if data is None else data)
    return watch, trainer


# ---- the average ---------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("buffers", ["ema", "copy"])
def test_the_recursion(accumulate, warmup, buffers, tmp_path):
    mesa = MESA(decay=0.6, start_epoch=0, warmup=warmup, buffers=buffers)
    watch, trainer = tiny_fit(tmp_path, mesa, accumulate_grad_batches=accumulate)
    average, done = dict(watch.first), 0
    for step in watch.steps:
        if step["global_step"] > done:
            done += 1
            beta = min(0.6, (1 + done) / (10 + done)) if warmup else 0.6
            for name, latest in step["weights"].items():
                kept = "running" in name and buffers == "copy"
                if kept or not latest.is_floating_point():
                    average[name] = latest
                else:
                    average[name] = beta * average[name] + (1 - beta) * latest
        assert step["global_step"] == done
        for name, expected in average.items():
            assert torch.allclose(step["average"][name], expected, rtol=1e-12, atol=1e-15), name
    # an epoch has six batches; the last group of four holds two
    assert done == trainer.global_step == {1: 18, 2: 9, 4: 6}[accumulate]


def test_the_warm_up_starts_at_two_elevenths(tmp_path):
    watch, _ = tiny_fit(tmp_path, MESA(decay=0.9995))
    name = "network.0.weight"
    step = watch.steps[0]
    expected = 2 / 11 * watch.first[name] + 9 / 11 * step["weights"][name]
    assert torch.allclose(step["average"][name], expected, rtol=1e-12)


def test_the_term_is_that_of_the_paper(tmp_path):
    mesa = MESA(weight=0.7, decay=0.6, start_epoch=0, end_epoch=3)
    watch, _ = tiny_fit(tmp_path, mesa, epochs=4)
    assert {s["epoch"] for s in watch.steps if s["term"] is not None} == {1, 2}
    for step in watch.steps[6:18]:
        assert torch.allclose(step["term"].detach(), step["by hand"], atol=1e-12)
        assert step["weight"] == 0.7
        assert step["term"].min() > 0


def test_no_gradient_reaches_the_average(tmp_path):
    mesa = MESA(decay=0.6, start_epoch=-1)
    tiny_fit(tmp_path, mesa, epochs=1)
    assert mesa.average is not None
    assert all(p.grad is None for p in mesa.average.parameters())


def test_the_average_is_not_trained_on_nor_part_of_the_module(tmp_path):
    mesa, module = MESA(start_epoch=-1), Module()
    before = set(module.state_dict())
    _, trainer = tiny_fit(tmp_path, mesa, module=module, epochs=1)
    assert set(module.state_dict()) == before
    trained = {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]}
    assert trained == {id(p) for p in module.parameters()}


def test_a_checkpoint_after_the_fit_holds_the_average(tmp_path):
    mesa = MESA(decay=0.6)
    watch, trainer = tiny_fit(tmp_path, mesa, epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]["MESA"]
    assert saved["moves"] == 6
    for name, value in watch.steps[-1]["average"].items():
        assert torch.equal(saved["average"][name], value)
    again = MESA(decay=0.6)
    trainer = tiny_trainer(tmp_path, [again], False, limit_val_batches=0, precision="64-true")
    trainer.fit(Module(), TinyData(), ckpt_path=tmp_path / "end.ckpt")
    assert again.state_dict()["moves"] == trainer.global_step == 12


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precision(precision, tmp_path):
    mesa = MESA(decay=0.9, start_epoch=0)
    watch, _ = tiny_fit(tmp_path, mesa, precision=precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in mesa.average.parameters()} == {dtype}
    for step in watch.steps[6:]:
        assert step["term"].dtype == dtype
        assert torch.isfinite(step["term"]).all()
        assert step["term"].max() > 0


class Mixed(TinyData):
    mixes_samples = True


def test_mixed_samples_are_allowed(tmp_path):
    watch, _ = tiny_fit(tmp_path, MESA(start_epoch=0, decay=0.6), data=Mixed(), epochs=2)
    assert watch.steps[-1]["term"].min() > 0
    args = [*arguments("classifier", "with/mesa"), "--data.mixup=0.4"]
    record = fit([*args, f"--run_folder={tmp_path}"])
    assert terms(record.steps[-1])["mesa"] > 1e-9


class Stream(IterableDataset):
    """Batches without a length or a datamodule."""

    def __iter__(self):
        return iter([*TinyData().train_dataloader()])


@pytest.mark.filterwarnings("ignore:You defined a `val")
def test_any_data_will_do(tmp_path):
    mesa = MESA(start_epoch=0, decay=0.6)
    watch = Watch(mesa)
    trainer = tiny_trainer(tmp_path, [mesa, watch], False, limit_val_batches=0)
    trainer.fit(Module(), DataLoader(Stream(), batch_size=None))
    assert watch.steps[-1]["term"].min() > 0


# ---- runs from configs ---------------------------------------------------------------------------


def overlay(folder: Path, **arguments: Any) -> str:
    path = folder / "mesa.yaml"
    callback = {"class_path": "MESA", "init_args": arguments}
    path.write_text(yaml.safe_dump({"trainer": {"callbacks+": [callback]}}))
    return f"--config={path}"


@pytest.mark.parametrize(
    "idle",
    [one_of_many({"weight": 0.0, "start_epoch": -1}, quick=False), {"start_epoch": 2}],
)
def test_without_weight_or_before_its_start_nothing_changes(idle, tmp_path):
    args = [*arguments("classifier"), "--trainer.max_epochs=3"]
    plain = fit([*args, f"--run_folder={tmp_path / 'plain'}"])
    mesa = fit([*args, overlay(tmp_path, **idle), f"--run_folder={tmp_path / 'm'}"])
    assert differences(plain.parameters, mesa.parameters) == []
    assert differences(plain.optimizer, mesa.optimizer) == []
    assert [s["terms"]["loss"] for s in plain.steps] == [s["terms"]["loss"] for s in mesa.steps]
    assert any("mesa" in s["terms"] for s in mesa.steps) == ("weight" in idle)


@pytest.mark.parametrize("buffers", ["ema", one_of_many("copy", quick=False)])
def test_two_ranks_equal_one_process(buffers, tmp_path, two_ranks):
    added = overlay(tmp_path, decay=0.6, start_epoch=0, buffers=buffers)
    args = [*arguments("classifier"), added, *FLOAT64, *PLAIN_SGD]
    for record in compare(args, tmp_path, two_ranks):
        active = [terms(s)["mesa"] for s in record.steps if "mesa" in s["terms"]]
        assert len(active) == 4
        assert min(active) > 1e-9


@pytest.mark.parametrize(
    "extra", [one_of_many([], quick=False), ["--trainer.accumulate_grad_batches=2"]]
)
def test_resume_is_bitwise(extra, tmp_path):
    args = [*arguments("classifier"), overlay(tmp_path, decay=0.99, start_epoch=0), *extra]
    whole, resumed = kill_and_resume([*args, "--trainer.max_epochs=4"], tmp_path, kill_at=7)
    assert_same_bits(whole, resumed)
    assert terms(resumed.steps[-1])["mesa"] > 1e-9
    parts = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in ("whole", "killed")
    ]
    ends = [part["callbacks"]["MESA"] for part in parts]
    assert ends[0]["moves"] == parts[0]["global_step"]
    assert differences(*ends) == []


# ---- what is refused -----------------------------------------------------------------------------


class Regression(Module):
    prediction_shape = (1,)


class Silent(Module):
    provides = ("per_sample",)


class Stranger(LightningModule):
    def training_step(self, batch, batch_idx):
        raise AssertionError("a step was taken")

    def configure_optimizers(self):
        return None


@pytest.mark.filterwarnings("ignore:You passed in a `val")
@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Regression, r"at least two classes, .* shape \(1,\)"),
        (Silent, "needs `predictions`, which Silent does not provide"),
        (
            Stranger,
            "TrainingModule, which Stranger is not: add framework.losses.AveragedModelLoss",
        ),
    ],
)
def test_refused_before_the_first_step(module, sentence, tmp_path):
    mesa = MESA()
    watch = Watch(mesa)
    with pytest.raises(ValueError, match=sentence) as error:
        tiny_trainer(tmp_path, [mesa, watch], False).fit(module(), TinyData())
    assert watch.steps == []
    assert str(error.value).endswith(".")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # read by torch's compiler
def test_the_average_of_a_compiled_module_is_compared_by_a_forward_of_its_own(tmp_path):
    # without dropout and batch norm, whose two modes would differ for one network, too
    module = TinyModule()
    module.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5)
    compiled = torch.compile(module, backend="eager")
    mesa = MESA(decay=0.6, start_epoch=0)
    watch, _ = tiny_fit(tmp_path, mesa, module=compiled, epochs=2, limit_train_batches=2)
    terms = [step["term"] for step in watch.steps if step["term"] is not None]
    assert len(terms) == 2
    assert all(term.abs().max() > 1e-6 for term in terms)


def test_weights_too_coarse_for_the_average_are_refused(tmp_path):
    with pytest.raises(IncompatibleError, match=r"bfloat16 are too coarse .* decay=0\.9995"):
        tiny_fit(tmp_path, MESA(), precision="bf16-true")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"weight": -0.1}, "weight must be at least 0, got -0.1"),
        ({"weight": float("nan")}, "weight must be finite and at least 0, got nan"),
        ({"temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ({"start_epoch": 5, "end_epoch": 6}, "No epoch lies between start_epoch=5 and end_epoch=6"),
        ({"buffers": "none"}, "buffers must be one of ema, copy, got 'none'"),
    ],
)
def test_arguments_out_of_range(argument, sentence):
    with pytest.raises(ValueError, match=sentence):
        MESA(**argument)
