"""The recorded norms, against gradients by hand, and their file across runs and resumes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, AdamW
from torch.utils.data import DataLoader

from callbacks import GradientNormRecorder, gradient_norm_recorder
from framework.objectives.errors import IncompatibleError
from framework.runs import read_metrics
from framework.schedules import read_gradient_norms, refine_schedule
from tests.helpers.configs import arguments
from tests.helpers.runs import fit, fit_on_two_ranks
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.test_resume import kill_and_resume

SHIFTS = torch.linspace(1, 4, 8)
FLAG = "--model.lr_scheduler.norms"
NAME = "gradient_norms.csv"


class Quadratic(LightningModule):
    """|w|^2 / 2 + shift * sum(w), whose gradient is w + shift in each of three entries."""

    def __init__(self, optimizer: Any = SGD) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.bias = nn.Parameter(torch.tensor(-1.0))
        self.idle = nn.Parameter(torch.zeros(3))
        self.build = optimizer
        self.expected: list[Tensor] = []

    def training_step(self, shift: Tensor, batch_idx: int) -> Tensor:
        both = torch.cat([self.weight, self.bias[None]])
        self.expected.append(both.detach() + shift.mean())
        return both.square().sum() / 2 + shift.mean() * both.sum()

    def configure_optimizers(self) -> Any:
        return self.build(self.parameters(), lr=0.1)


class Rows(Logger):
    name, version = "rows", 0

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if "gradient_norm/l2" in metrics:
            self.rows.append({**metrics, "step": step})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def run(folder: Path, module: Any, loggers: Any = False, **settings: Any) -> Any:
    callbacks = [GradientNormRecorder(), *settings.pop("callbacks", [])]
    trainer = tiny_trainer(folder, callbacks, loggers, **{"max_epochs": 1, **settings})
    trainer.fit(module, DataLoader(SHIFTS, batch_size=1))  # type: ignore[arg-type]
    return trainer


def assert_norms(folder: Path, gradients: list[Tensor]) -> None:
    norms = read_gradient_norms(folder).norms
    assert norms["l2"].tolist() == pytest.approx([float(g.norm()) for g in gradients], rel=1e-6)
    assert norms["l1"].tolist() == pytest.approx(
        [float(g.abs().sum()) for g in gradients], rel=1e-6
    )


def test_norms_are_those_before_clipping(tmp_path: Path) -> None:
    module, logger = Quadratic(), Rows()
    run(tmp_path, module, logger, gradient_clip_val=0.01, log_every_n_steps=3)
    assert_norms(tmp_path, module.expected)
    assert module.weight.detach().norm() > 0.9  # it was clipped
    lines = (tmp_path / NAME).read_text().splitlines()
    assert lines[:4] == [
        "# Trimtab gradient norms, version 1",
        "# optimizer: SGD",
        "# total_steps: 8",
        "step,l2,l1",
    ]
    assert [row["step"] for row in logger.rows] == [2, 5]
    assert logger.rows[0]["gradient_norm/l2"] == pytest.approx(float(module.expected[2].norm()))
    assert logger.rows[0]["gradient_norm/l1"] == pytest.approx(float(module.expected[2].sum()))


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    module = Quadratic()
    run(tmp_path, module, accumulate_grad_batches=4)
    pairs = torch.stack(module.expected).split(4)
    assert_norms(tmp_path, [pair.mean(0) for pair in pairs])


def test_norms_are_unscaled(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=3)
    module = Quadratic()
    run(tmp_path, module, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert_norms(tmp_path, module.expected)


def test_a_step_of_several_gradients_has_the_first(tmp_path: Path) -> None:
    module = Quadratic(lambda params, lr: LBFGS(params, lr=lr, max_iter=3))
    run(tmp_path, module)
    assert len(module.expected) > 8
    norms = read_gradient_norms(tmp_path).norms["l2"]
    assert len(norms) == 8
    assert norms[0] == pytest.approx(float(module.expected[0].norm()))


def test_a_new_run_replaces_the_file_and_a_logger_has_its_own(tmp_path: Path) -> None:
    first = Quadratic()
    run(tmp_path, first, max_epochs=2)
    second = Quadratic()
    run(tmp_path, second)
    assert_norms(tmp_path, second.expected)
    assert len(second.expected) == len(first.expected) / 2
    third = Quadratic()
    run(tmp_path, third, CSVLogger(tmp_path, name="logs"))
    assert_norms(tmp_path / "logs" / "version_0", third.expected)


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text("of somebody else\n")
    with pytest.raises(ValueError, match=f"{NAME} is there already and holds no gradient norms"):
        run(tmp_path, Quadratic())
    assert path.read_text() == "of somebody else\n"


def test_a_file_that_was_removed_is_written_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(gradient_norm_recorder, "BLOCK", 3)

    class Removing(Quadratic):
        def on_train_batch_end(self, *args: Any) -> None:
            if self.global_step == 4:
                assert len(read_gradient_norms(tmp_path).norms["l2"]) == 3
                (tmp_path / NAME).unlink()

    module = Removing()
    run(tmp_path, module)
    assert_norms(tmp_path, module.expected)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_has_the_file_of_a_whole_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(gradient_norm_recorder, "BLOCK", 3)
    whole = Quadratic()
    run(tmp_path / "whole", whole, max_epochs=2)
    assert_norms(tmp_path / "whole", whole.expected)

    class Failing(Quadratic):
        def on_train_batch_start(self, *args: Any) -> None:
            if self.global_step == 13:
                raise OSError("no light")

    saving = ModelCheckpoint(tmp_path / "saved", "{step}")
    with pytest.raises(OSError, match="no light"):
        run(tmp_path / "cut", Failing(), callbacks=[saving], max_epochs=2)
    assert len(read_gradient_norms(tmp_path / "cut").norms["l2"]) == 13
    trainer = tiny_trainer(tmp_path / "cut", [GradientNormRecorder()], False, max_epochs=2)
    loader: Any = DataLoader(SHIFTS, batch_size=1)  # type: ignore[arg-type]
    saved = tmp_path / "saved" / "step=8.ckpt"
    trainer.fit(Quadratic(), loader, ckpt_path=saved, weights_only=True)
    files = [(tmp_path / name / NAME).read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
    assert files[0].count(b"\n") == 4 + 16


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_steps_of_which_nothing_is_known_are_told(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", "{step}")
    plain = tiny_trainer(tmp_path, [saving], False, max_epochs=1)
    loader: Any = DataLoader(SHIFTS, batch_size=1)  # type: ignore[arg-type]
    plain.fit(Quadratic(), loader)
    trainer = tiny_trainer(tmp_path, [GradientNormRecorder()], False, max_epochs=2)
    with pytest.warns(UserWarning, match="norms of 8 steps before step 8 are unknown"):
        trainer.fit(Quadratic(), loader, ckpt_path=tmp_path / "saved" / "step=8.ckpt")
    norms = read_gradient_norms(tmp_path).norms["l2"]
    assert norms.isnan().tolist() == [True] * 8 + [False] * 8


def test_a_state_of_other_norms_is_taken_as_far_as_it_goes() -> None:
    recorder = GradientNormRecorder(["l1", "l2"])
    series = torch.tensor([[1.0, 2.0]])
    recorder.load_state_dict({"norms": ["l2"], "series": series})
    state = recorder.state_dict()
    assert state["norms"] == ["l1", "l2"]
    assert state["series"][1].tolist() == [1.0, 2.0]
    assert state["series"][0].isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norms": ["max"]}, "norms must be one of l2, l1, got 'max'"),
        ({"norms": []}, "norms must name each norm once, and any"),
        ({"norms": ["l1", "l1"]}, "norms must name each norm once"),
        ({"file_name": "../norms.csv"}, "which a file cannot be called"),
        ({"file_name": "norms.ckpt"}, r"file_name must end in .csv, got 'norms.ckpt'"),
    ],
)
def test_a_wrong_argument_is_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientNormRecorder(**options)


def test_several_optimizers_are_refused(tmp_path: Path) -> None:
    class Two(Quadratic):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [SGD([self.weight], lr=0.1), SGD([self.bias], lr=0.1)]

    with pytest.raises(IncompatibleError, match="one optimizer; this run has SGD and SGD"):
        run(tmp_path, Two())


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_gradients_in_parts_are_refused(strategy: Any) -> None:
    optimizers = [SGD([nn.Parameter(torch.zeros(1))], lr=0.1)]
    trainer: Any = SimpleNamespace(optimizers=optimizers, strategy=strategy())
    with pytest.raises(IncompatibleError, match=f"{strategy.__name__} gives each rank a part"):
        GradientNormRecorder().on_fit_start(trainer, Quadratic())


def test_gradients_that_a_fused_step_unscales_are_refused() -> None:
    optimizers = [AdamW([nn.Parameter(torch.zeros(1))], fused=True)]
    trainer: Any = SimpleNamespace(optimizers=optimizers, strategy=None, precision="16-mixed")
    with pytest.raises(IncompatibleError, match="fused AdamW takes gradients as they are scaled"):
        GradientNormRecorder().on_fit_start(trainer, Quadratic())
    trainer.precision = "bf16-mixed"
    GradientNormRecorder().on_fit_start(trainer, Quadratic())


def test_a_module_of_ours_has_a_row_per_step(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, [GradientNormRecorder()], False, max_epochs=2)
    trainer.fit(TinyModule(), TinyData())
    norms = read_gradient_norms(tmp_path).norms
    assert len(norms["l2"]) == 12
    assert (norms["l1"] >= norms["l2"]).all()


def test_the_second_run_is_refined_by_the_first(tmp_path: Path, recwarn: Any) -> None:
    args = arguments("classifier", "with/refined")
    fit([*args, f"--run_folder={tmp_path / 'first'}"])
    norms = read_gradient_norms(tmp_path / "first")
    assert (norms.optimizer, norms.total_steps) == ("AdamW", len(norms.norms["l1"]))
    rates = _rates(tmp_path / "first")
    steps = len(rates)
    linear = [0.003 * (1 - step / (steps - 1)) for step in range(steps)]
    assert rates == pytest.approx(linear, rel=1e-9, abs=1e-15)
    fit([*args, f"--run_folder={tmp_path / 'second'}", f"{FLAG}={tmp_path / 'first'}"])
    expected = 0.003 * refine_schedule(norms.norms["l1"], steps, "adam")
    assert _rates(tmp_path / "second") == pytest.approx(expected.tolist(), rel=1e-9)
    assert expected.tolist() != pytest.approx(linear, rel=0.01)


def _rates(folder: Path) -> list[float]:
    _, rows = read_metrics(folder / "metrics.csv")
    column = next(name for name in rows[0] if name.startswith("lr-"))
    return [float(row[column]) for row in rows if row[column]]


def test_two_ranks_record_what_one_process_does(tmp_path: Path, two_ranks: Any) -> None:
    args = [*arguments("classifier", "with/refined"), "--trainer.precision=64-true"]
    args = [*args, "--trainer.max_epochs=1"]
    fit([*args, f"--run_folder={tmp_path / 'one'}"])
    two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path / 'two'}"])
    one, two = (read_gradient_norms(tmp_path / name) for name in ("one", "two"))
    assert (one.optimizer, one.total_steps) == (two.optimizer, two.total_steps)
    for name, values in one.norms.items():
        assert two.norms[name].tolist() == pytest.approx(values.tolist(), rel=1e-6)
        assert len(values) == one.total_steps


@pytest.mark.combination
def test_a_killed_run_ends_with_the_same_file(tmp_path: Path) -> None:
    kill_and_resume(arguments("classifier", "with/refined"), tmp_path, kill_at=7)
    files = [(tmp_path / name / NAME).read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
    assert files[0].count(b"\n") > 8
