"""Names of version 0.1 in configs and checkpoints, and what they are called today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PACKAGES = ("framework", "modules", "datamodules", "callbacks")

MODULES = {
    "callbacks.autoencoder_export": "callbacks.sae_lens_export",
    "callbacks.detection_files": "callbacks.detection_writer",
    "callbacks.feature_page": "callbacks.feature_dashboard",
    "callbacks.figures": "callbacks.figure_logger",
    "callbacks.network_export": "callbacks.onnx_export",
    "callbacks.predictions": "callbacks.prediction_writer",
    "callbacks.progress": "callbacks.run_progress_bar",
    "callbacks.splice": "callbacks.loss_recovered_evaluation",
    "callbacks.summary": "callbacks.metrics_summary",
    "datamodules.dota.faults": "datamodules.dota.label_errors",
    "datamodules.image_set": "datamodules.image_datasets",
    "datamodules.joined_images": "datamodules.image_datasets",
    "datamodules.oriented": "datamodules.oriented_data",
    "datamodules.table": "datamodules.table_reader",
    "framework.checkpoint": "framework.runs.checkpoint_io",
    "framework.cli": "framework.command.cli",
    "framework.compatibility": "framework.objectives.errors",
    "framework.evaluation": "framework.training.evaluation",
    "framework.feature_page": "framework.sparse_coding.feature_html",
    "framework.language_model": "framework.language.language_model",
    "framework.layers.grouped_mlp": "framework.adaptation.grouped_mlp",
    "framework.layers.necks.top_down": "framework.detection.top_down_neck",
    "framework.metrics.cluster_accuracy": "framework.clustering.cluster_accuracy",
    "framework.metrics.cluster_samples": "framework.clustering.cluster_samples",
    "framework.metrics.cluster_sizes": "framework.clustering.cluster_sizes",
    "framework.metrics.clustering_scores": "framework.clustering.clustering_scores",
    "framework.metrics.code_sample": "framework.metrics.embedding_sample",
    "framework.metrics.contingency_table": "framework.clustering.contingency_table",
    "framework.metrics.detection_samples": "framework.detection.detection_samples",
    "framework.metrics.feature_density": "framework.sparse_coding.feature_density",
    "framework.metrics.fvu": "framework.sparse_coding.fvu",
    "framework.metrics.l0": "framework.sparse_coding.l0",
    "framework.metrics.loss_recovered": "framework.sparse_coding.loss_recovered",
    "framework.metrics.mimicking_loss": "framework.adaptation.mimicking_loss",
    "framework.metrics.nmse": "framework.sparse_coding.nmse",
    "framework.metrics.per_token": "framework.sparse_coding.per_token",
    "framework.metrics.rotated_average_precision": "framework.detection.rotated_average_precision",
    "framework.metrics.shrinkage": "framework.sparse_coding.shrinkage",
    "framework.metrics.soft_frequency": "framework.clustering.soft_frequency",
    "framework.metrics.term_means": "framework.training.term_means",
    "framework.metrics.top_contexts": "framework.sparse_coding.top_contexts",
    "framework.module": "framework.training",
    "framework.nonfinite": "framework.training.nonfinite",
    "framework.ops.normalization": "framework.sparse_coding.normalization",
    "framework.ops.quantiles": "framework.sparse_coding.quantiles",
    "framework.ops.rotated": "framework.detection.rotated",
    "framework.ops.rotated.orc": "framework.detection.rotated.orc",
    "framework.ops.selection": "framework.sparse_coding.selection",
    "framework.ops.sparse_code": "framework.sparse_coding.sparse_code",
    "framework.ops.zipf": "framework.sparse_coding.zipf",
    "framework.paired_sampling": "framework.adaptation.paired_sampling",
    "framework.preemption": "framework.runs.preemption",
    "framework.privacy": "framework.data.privacy",
    "framework.reduction": "framework.objectives.reduction",
    "framework.resume": "framework.runs.resume",
    "framework.run_checkpoint": "framework.runs.run_checkpoint",
    "framework.run_folder": "framework.runs.run_folder",
    "framework.run_logger": "framework.runs.csv_logger",
    "framework.sample_state": "framework.distributed.sample_state",
    "framework.sampling": "framework.data",
    "framework.small_loss": "modules.coteaching.small_loss",
    "framework.wandb_logger": "framework.runs.wandb_logger",
}

CLASSES = {
    "AutoencoderExport": "SAELensExport",
    "CodeSample": "EmbeddingSample",
    "DetectionFiles": "DetectionWriter",
    "Dynamics": "ObjectivesCallback",
    "ElasticLoader": "ElasticDataLoader",
    "Evaluation": "EvaluationModule",
    "Faults": "LabelErrors",
    "FeaturePage": "FeatureDashboard",
    "Figures": "FigureLogger",
    "GlobalBatches": "GlobalBatchSampler",
    "GracefulStop": "PreemptionCheckpoint",
    "GroupBatches": "GroupBatchSampler",
    "KeptCodes": "EmbeddingSnapshot",
    "KeyedDataset": "IndexedDataset",
    "NetworkExport": "ONNXExport",
    "NonfiniteWatch": "NonFiniteGuard",
    "PairedBatches": "PairedBatchSampler",
    "Predictions": "PredictionWriter",
    "Progress": "RunProgressBar",
    "Reduced": "ReducedObjectives",
    "SpliceEvaluation": "LossRecoveredEvaluation",
    "Summary": "MetricsSummary",
}

ARGUMENTS = {
    "AuxiliaryLoss": {"normaliser": "normalizer"},
    "DeadLatentAuxLoss": {"normaliser": "normalizer"},
    "GGHL": {"candidates": "pre_nms_top_k"},
    "ZipfAuxLoss": {"normaliser": "normalizer"},
}
"""Arguments by the name of their class today."""

EXCEPTIONS = {
    "datamodules.image_folder.ImageFiles": "datamodules.image_datasets.ImageFiles",
    **{
        f"datamodules.oriented.{name}": f"datamodules.object_augmentation.{name}"
        for name in ("ObjectAugmentation", "ObjectTransform")
    },
    "datamodules.oriented_augmentation.PixelTransform": (
        "datamodules.pixel_augmentation.PixelTransform"
    ),
    "framework.layers.GroupedMLP": "framework.adaptation.GroupedMLP",
}
"""Classes that went to another module than the rest of theirs."""


def current_class_path(path: str) -> str:
    """Return what a class is called today; every other text comes back as it is.

    Args:
        path: Class path, or the name of a class alone.

    Example:
        >>> current_class_path("callbacks.predictions.Predictions")
        'callbacks.prediction_writer.PredictionWriter'
        >>> current_class_path("torch.optim.SGD")
        'torch.optim.SGD'
    """
    if path in EXCEPTIONS:
        return EXCEPTIONS[path]
    module, dot, name = path.rpartition(".")
    if dot and module.partition(".")[0] not in PACKAGES:
        return path
    return MODULES.get(module, module) + dot + CLASSES.get(name, name)


def current_config(value: Any) -> Any:
    """Return a loaded config, or a part of one, with the names of today.

    Example:
        >>> current_config({"class_path": "modules.GGHL", "init_args": {"candidates": 100}})
        {'class_path': 'modules.GGHL', 'init_args': {'pre_nms_top_k': 100}}
    """
    if isinstance(value, list):
        return [current_config(part) for part in value]
    if isinstance(value, str):
        return current_class_path(value) if "." in value else value
    if not isinstance(value, dict):
        return value
    current = {key: current_config(part) for key, part in value.items()}
    path = current.get("class_path")
    if isinstance(path, str):
        current["class_path"] = path = current_class_path(path)
        renamed = ARGUMENTS.get(path.rpartition(".")[2], {})
        arguments = current.get("init_args")
        if isinstance(arguments, dict):
            current["init_args"] = {renamed.get(k, k): part for k, part in arguments.items()}
    return current


def current_arguments(args: Sequence[str]) -> list[str]:
    """Return a command line with the names of today, for ``--model modules.gghl.module.GGHL``."""
    current = []
    for argument in args:
        option, equals, value = argument.rpartition("=")
        current.append(option + equals + (current_class_path(value) if "." in value else value))
    return current


def current_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose callbacks stand under the names of their classes of today."""
    states = checkpoint.get("callbacks")
    if not isinstance(states, dict):
        return checkpoint
    return {**checkpoint, "callbacks": {_current_key(key): s for key, s in states.items()}}


def _current_key(key: Any) -> Any:
    # Lightning's keys are the class, or the class and its settings in braces
    name, brace, settings = str(key).partition("{")
    return CLASSES[name] + brace + settings if name in CLASSES else key
