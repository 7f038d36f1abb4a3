"""What every run of the command shows and writes."""

from __future__ import annotations

from lightning.pytorch import Callback

from callbacks.detection_writer import DetectionWriter
from callbacks.embedding_writer import EmbeddingWriter
from callbacks.figure_logger import FigureLogger
from callbacks.metrics_summary import MetricsSummary
from callbacks.people_writer import PeopleWriter
from callbacks.prediction_writer import PredictionWriter
from callbacks.report_writer import ReportWriter
from callbacks.run_header import RunHeader
from callbacks.run_progress_bar import RunProgressBar
from callbacks.trial_reporter import reporters_of_trial


def for_every_run() -> list[Callback]:
    """Return new callbacks that the command adds to every run."""
    return [
        RunHeader(),
        RunProgressBar(),
        FigureLogger(),
        PredictionWriter(),
        EmbeddingWriter(),
        DetectionWriter(),
        PeopleWriter(),
        # the figures and tables of the others are in it
        ReportWriter(),
        MetricsSummary(),
        *reporters_of_trial(),
    ]
