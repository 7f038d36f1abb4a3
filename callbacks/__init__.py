"""Methods that act across domains, and what every run shows and writes."""

from __future__ import annotations

from lightning.pytorch import Callback

from callbacks.autoencoder_export import AutoencoderExport
from callbacks.constraint_monitor import ConstraintMonitor
from callbacks.detection_files import DetectionFiles
from callbacks.dynamic_preference import DynamicPreference
from callbacks.feature_page import FeaturePage
from callbacks.figures import Figures
from callbacks.mesa import MESA
from callbacks.network_export import NetworkExport
from callbacks.predictions import Predictions
from callbacks.progress import Progress
from callbacks.robust_accuracy import RobustAccuracy
from callbacks.saf import SAF
from callbacks.selection_schedule import SelectionPhase, SelectionSchedule
from callbacks.splice import SpliceEvaluation
from callbacks.summary import Summary
from callbacks.threshold_calibration import ThresholdCalibration

__all__ = [
    "MESA",
    "SAF",
    "AutoencoderExport",
    "ConstraintMonitor",
    "DetectionFiles",
    "DynamicPreference",
    "FeaturePage",
    "Figures",
    "NetworkExport",
    "Predictions",
    "Progress",
    "RobustAccuracy",
    "SelectionPhase",
    "SelectionSchedule",
    "SpliceEvaluation",
    "Summary",
    "ThresholdCalibration",
    "for_every_run",
]


def for_every_run() -> list[Callback]:
    """Return new callbacks that the command adds to every run."""
    return [Progress(), Figures(), Predictions(), DetectionFiles(), Summary()]
