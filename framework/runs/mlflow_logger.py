"""MLflow with one run per run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from framework.runs.dashboard_logger import DashboardLogger, config_text
from framework.runs.slurm_facts import slurm_facts
from framework.utilities.error_reason import reason_of
from framework.utilities.files import write_text

RUN_ID = re.compile(r"[0-9a-f]{32}")


class RunMLFlowLogger(DashboardLogger):
    """Logs to MLflow, under one run id for as long as the run folder exists.

    The id is kept in the file ``mlflow_run_id``, so a resumed run, a test or a validation goes on
    in the same MLflow run. The best values are metrics ``best/<metric>``, the numbers of a SLURM
    job tags. Where MLflow fails after its start, one warning says so and the run goes on without
    it.

    Args:
        experiment_name: Experiment that the run is in.
        run_name: Name of the run; default the last two parts of the run folder.
        tracking_uri: Store of the runs; default ``MLFLOW_TRACKING_URI`` of the environment, or
            the file ``mlflow.db`` in the run folder.
        folder: Run folder; None leaves it to the command, which sets ``folder``.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
        ConnectionError: MLflow could not start.
        ValueError: The file ``mlflow_run_id`` of the run folder holds no id.

    Example:
        >>> RunMLFlowLogger("digits", folder="runs/digits/1").experiment_name
        'digits'
    """

    title = "MLflow"

    def __init__(
        self,
        experiment_name: str = "trimtab",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        self.experiment_name = experiment_name
        self.run_name = run_name
        self.tracking_uri = tracking_uri
        self.folder = folder
        self._inner: MLFlowLogger | None = None

    @property
    def name(self) -> str:
        """The experiment."""
        return self.experiment_name

    @property
    def version(self) -> str | None:
        """The id of the run, or None before it started."""
        return None if self._inner is None else self._inner.run_id

    @property
    def save_dir(self) -> str | None:
        """The run folder."""
        return self.folder

    @property
    def run_id(self) -> str:
        """The id of the run, which is started."""
        return str(self.started.run_id)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``MlflowClient`` of the store; the run is started."""
        return self.started.experiment

    @property
    def started(self) -> MLFlowLogger:
        """Lightning's logger of the run, which it starts."""
        if self._inner is None:
            self._inner = self._start()
        return self._inner

    def _start(self) -> MLFlowLogger:
        folder = self.run_folder
        known = _known_run_id(folder / "mlflow_run_id")
        place = folder.resolve()
        store = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        try:
            made = MLFlowLogger(
                experiment_name=self.experiment_name,
                run_name=self.run_name or "/".join(place.parts[-2:]),
                tracking_uri=store or f"sqlite:///{place}/mlflow.db",
                artifact_location=None if store else f"{place}/mlflow",
                run_id=known,
            )
            client, identity = made.experiment, made.run_id
            if known is not None:
                client.update_run(identity, status="RUNNING")
            for key, value in slurm_facts().items():
                client.set_tag(identity, f"slurm.{key}", value)
        except ImportError:
            raise
        except Exception as error:
            raise ConnectionError(
                f"MLflow could not start ({reason_of(error)}); name a store by `tracking_uri` or "
                "MLFLOW_TRACKING_URI."
            ) from error
        if known is None:
            write_text(folder / "mlflow_run_id", f"{identity}\n")
        return made

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the config: as a file, and as parameters those that the run does not have yet."""
        self.attempt(self._log_config, params)

    def _log_config(self, params: Mapping[str, Any]) -> None:
        self.experiment.log_text(self.run_id, config_text(params), "config.yaml")
        # MLflow refuses another value of a parameter
        had = self.experiment.get_run(self.run_id).data.params
        self.started.log_hyperparams({k: v for k, v in _flat(params).items() if k not in had})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, and those that are the best of the run by now."""
        self.attempt(lambda: self.started.log_metrics({**metrics, **self.improved(metrics)}, step))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the MLflow run; what is logged afterwards continues it."""
        if self._inner is not None:
            self.attempt(self._inner.finalize, status)


def _flat(params: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in params.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}/") if isinstance(value, Mapping) else {name: value}
    return found


def _known_run_id(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open(errors="replace") as file:
        found = file.read(200).strip()
    if not RUN_ID.fullmatch(found):
        raise ValueError(
            f"{path} holds {found[:20]!r}, which is no id of an MLflow run: remove it."
        )
    return found
