"""What the loggers of a run folder for W&B, TensorBoard and MLflow have in common."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from framework.runs.best_values import BestValues
from framework.runs.panels import Layout
from framework.utilities.error_reason import reason_of

log = logging.getLogger(__name__)


class DashboardLogger(Logger):
    """Logs to a dashboard beside ``metrics.csv``, which a run does not need in order to go on.

    Where the dashboard fails after its start, one warning says so, and it gets nothing more.

    Class attributes:
        title: Name of the dashboard, for messages.
    """

    title = "the dashboard"
    folder: str | None = None
    """Folder of the run."""
    command: str | None = None
    """Command that the process runs, such as ``fit``, where it is one of ours."""

    is_lost = False
    """Whether the dashboard failed after its start."""
    _keep_below = math.inf
    layout = Layout()
    """Panels of the run; those of any domain before it is known."""
    _fits = False
    _best: BestValues | None = None

    @property
    def run_folder(self) -> Path:
        """The folder of the run.

        Raises:
            ValueError: It is not known.
        """
        if self.folder is None:
            raise ValueError(
                f"{type(self).__name__} does not know where to write: set its `folder`."
            )
        return Path(self.folder)

    @rank_zero_only
    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        """Learn the panels of a module; Lightning calls this before each run, with the module."""
        assert isinstance(model, LightningModule)
        trainer = model.trainer
        self.layout = Layout.of(model)
        self._fits = trainer.state.fn == "fit"
        if self._fits and (trainer.ckpt_path is not None or trainer.global_step == 0):
            self._best = BestValues(self.layout)
            if trainer.ckpt_path is not None:
                metrics = self.run_folder / "metrics.csv"
                self.attempt(self._best.read, metrics, self._keep_below)

    @rank_zero_only
    def continue_from(self, global_step: int) -> None:
        """Note the step of the checkpoint that the run goes on from.

        Args:
            global_step: Optimizer steps in the checkpoint.
        """
        self._keep_below = global_step

    def improved(self, metrics: Any) -> dict[str, float]:
        """Return what of the metrics of a fit is now the best of the run, as ``best/<metric>``."""
        return self._best.improved(metrics) if self._fits and self._best is not None else {}

    def attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call what may fail without an end of the run, unless it failed before."""
        if not self.is_lost:
            self.close_by(call, *args, **kwargs)

    def close_by(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call what may fail without an end of the run, also where it failed before."""
        try:
            call(*args, **kwargs)
        except Exception as error:
            if not self.is_lost:
                log.warning(
                    "trimtab: %s failed and gets nothing more of this run, which goes on: %s",
                    self.title,
                    reason_of(error),
                )
            self.is_lost = True


class _PlainDumper(yaml.SafeDumper):
    """Writes what YAML has no form for, such as a path or a class, as its text."""


_PlainDumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)
_PlainDumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))


def config_text(params: Mapping[str, Any]) -> str:
    """Return settings, which may be the hyperparameters of anybody's module, as YAML.

    Example:
        >>> print(config_text({"root": Path("data"), "size": 3}), end="")
        root: data
        size: 3
    """
    return yaml.dump(dict(params), Dumper=_PlainDumper, sort_keys=False)
