"""What a Lightning run is doing, so that events are counted per step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.prediction_loop import _PredictionLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies.strategy import Strategy

from tests.pretended_gpu.events import Recorder

TRAINING, VALIDATION = "training step", "validation step"
TEST, PREDICTION = "test step", "prediction step"


@contextlib.contextmanager
def lightning_phases(recorder: Recorder) -> Iterator[None]:
    """Name the phases of every Trainer inside the block."""
    names: list[tuple[type, str, Callable[[Any], str]]] = [
        (_FitLoop, "run", lambda loop: "fit, outside of steps"),
        (_FitLoop, "on_advance_end", lambda loop: "end of a training epoch"),
        (_TrainingEpochLoop, "advance", lambda loop: TRAINING),
        (_EvaluationLoop, "run", lambda loop: f"{_stage(loop)}, outside of steps"),
        (_EvaluationLoop, "_evaluation_step", lambda loop: f"{_stage(loop)} step"),
        (_PredictionLoop, "run", lambda loop: "prediction, outside of steps"),
        (_PredictionLoop, "_predict_step", lambda loop: PREDICTION),
        (Strategy, "save_checkpoint", lambda strategy: "checkpoint"),
    ]
    with contextlib.ExitStack() as stack:
        for kind, method, name in names:
            stand_in = _named(getattr(kind, method), name, recorder)
            stack.enter_context(mock.patch.object(kind, method, stand_in))
        yield


def _named(
    original: Callable[..., Any], name: Callable[[Any], str], recorder: Recorder
) -> Callable[..., Any]:
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with recorder.phase(name(self)):
            return original(self, *args, **kwargs)

    return run


def _stage(loop: Any) -> str:
    trainer = loop.trainer
    if trainer.sanity_checking:
        return "sanity check"
    is_validation = trainer.validating or trainer.training
    return "validation" if is_validation else str(trainer.state.stage.value)
