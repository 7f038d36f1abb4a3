"""Transductive few-shot classification on features that were learned by plain classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Unpack, cast, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.distributed.collectives import all_reduce_sum
from framework.embedding.backbones.build import build_backbone
from framework.embedding.metrics.first_episode import FirstEpisode
from framework.embedding.metrics.solver_accuracy import SolverAccuracy
from framework.losses.loss import ClassificationLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.solvers.few_shot_features import centered_unit_norm, shift_queries
from framework.solvers.few_shot_solvers import WITH_NEIGHBORS, SolverName, few_shot_solver
from framework.training.compatibility import check_fact
from framework.training.dataset_pass import visit
from framework.training.module import TrainingModule, TrainingOptions
from framework.training.terms import check_classes, rows_of
from framework.utilities.checks import check_at_least, check_one_of
from framework.utilities.lightning_internals import trainer_of
from modules.few_shot.evaluation_state import EvaluationState

Criterion = nn.CrossEntropyLoss | ClassificationLoss
SMOOTHING = 0.1
"""Label smoothing of the default criterion, as published."""


class Embedded(NamedTuple):
    """Normalized features of E episodes with S supports, first, and Q queries.

    Args:
        features: Features (E, S + Q, d) of unit norm about the base mean.
        support_label: Classes of the supports (E, S) int64.
        query_label: Classes of the queries (E, Q) int64.
        ways: Classes of an episode.
    """

    features: Tensor
    support_label: Tensor
    query_label: Tensor
    ways: int


class TransductiveFewShot(TrainingModule):
    r"""Classifies queries of new classes together, by clustering features of a plain classifier.

    Training batches hold ``image`` (B, C, H, W), ``label`` (B,) in 0..K-1 and ``index`` (B,) of
    base classes, and the backbone with a linear layer learns them by cross-entropy. Validation and
    test batches are episodes of other classes, see ``BaseAndNovel``. Features of an episode are
    centered by the mean of the base classes' features, which is taken anew from all training images
    in every epoch, and brought to unit norm. Then these solvers are run on the same features:

    ``nearest_prototype``
        each query by itself, the only one that is not transductive,
    ``kmeans``, ``kmodes``
        ``LaplacianClustering`` without a Laplacian term,
    ``laplacian_shot``
        ``LaplacianShot``,
    ``slk_means``, ``slk_ms``, ``slk_medoid``
        ``LaplacianClustering`` with prototypes that are means, modes and medoids.

    ``val/accuracy@S`` is the ordinary accuracy of solver S, without matching of clusters to
    classes, over episodes, and ``val/ci95@S`` half the width of its 95 % interval. Validation tries
    all ``lambdas`` and reports the best one for each solver, ``val/lambda@S``, which the
    test then takes. An evaluation draws the first episode and the accuracy by lambda.

    Paper: Ziko, Boudiaf, Dolz, Granger, Ben Ayed, Transductive Few-Shot Learning: Clustering is All
    You Need?, 2021, arXiv:2106.09516; features as in Wang et al., SimpleShot, arXiv:1911.04623. The
    solvers' docstrings say what differs from the authors' code.

    Args:
        num_classes: Number K of base classes; in a run default that of the data.
        input_shape: Shape (C, H, W) of an image; in a run default that of the data.
        backbone: Backbone by its name, such as ``'conv4'``, ``'mlp'`` or any timm name.
        embedding_dim: Width d of a feature.
        criterion: Loss on the logits; default cross-entropy with label smoothing 0.1.
        solvers: Names of the solvers; predictions are those of the last one.
        lam: Weight lambda of the Laplacian term where none is chosen.
        lambdas: Weights that validation chooses from, for each solver; none to keep ``lam``.
        knn: Number of neighbors of a row, itself among them.
        query_shift: Whether the queries' mean is moved to that of the supports, for all solvers but
            ``nearest_prototype``; it takes for granted that classes have equally many queries.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``num_classes`` or ``input_shape`` is None where nothing fills it, a solver is
            unknown or named twice, or an argument is out of its range.
        IncompatibleError: The data has other classes or another shape (at ``setup``), or evaluation
            batches are no episodes.

    Example:
        >>> import torch
        >>> from modules import TransductiveFewShot
        >>> model = TransductiveFewShot(num_classes=5, input_shape=(1, 8, 8), backbone="mlp")
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 5)
    """

    arguments_from_data: Mapping[str, str] = {
        "num_classes": "num_classes",
        "input_shape": "input_shape",
    }
    panels: tuple[Panel, ...] = (
        Panel("Accuracy of solvers", ("accuracy@*",), "share of the queries", best="max"),
        Panel("Half a 95 % interval", ("ci95@*",), "share of the queries"),
        Panel("Weight of the Laplacian term", ("lambda@*",), "lambda"),
    )
    whole_parameters: ClassVar[bool] = True
    required_fields: tuple[str, ...] = ("image", "label")
    provides: tuple[str, ...] = ("per_sample", "predictions", "targets", "index", "features")

    def __init__(
        self,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        backbone: str = "conv4",
        embedding_dim: int = 64,
        criterion: Criterion | None = None,
        solvers: Sequence[SolverName] = (
            "nearest_prototype",
            "kmeans",
            "laplacian_shot",
            "slk_means",
            "slk_ms",
        ),
        lam: float = 0.7,
        lambdas: Sequence[float] = (0.05, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0),
        knn: int = 3,
        query_shift: bool = True,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if num_classes is None or input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what is to be classified: set "
                "model.num_classes and model.input_shape, or in Python use "
                f"{type(self).__name__}.for_data(data)."
            )
        check_at_least(2, num_classes=num_classes)
        check_at_least(1, embedding_dim=embedding_dim, knn=knn)
        check_at_least(0, lam=lam, lambdas=min(lambdas, default=0))
        for name in solvers:
            check_one_of(get_args(SolverName), solvers=name)
        if not solvers or len(set(solvers)) < len(solvers):
            raise ValueError(
                f"solvers must have one name at least and each once, got {list(solvers)}."
            )
        self.num_classes = num_classes
        self.prediction_shape = (num_classes,)
        self.input_shape = tuple(input_shape)
        self.embedding_dim = embedding_dim
        self.backbone = build_backbone(backbone, self.input_shape, embedding_dim)
        self.head = nn.Linear(embedding_dim, num_classes)
        self.criterion = (
            criterion if criterion is not None else nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
        )
        self.provides = rows_of(self.criterion, self.provides)
        self.solvers = tuple(solvers)
        self.weighted = tuple(name for name in self.solvers if name in WITH_NEIGHBORS)
        self.lambdas = tuple(lambdas)
        self.knn = knn
        self.query_shift = query_shift
        self.state = EvaluationState(embedding_dim, len(self.weighted), lam)
        self._mean_step: int | None = None

    def setup(self, stage: str) -> None:
        """Check that the data fits."""
        check_fact(self.datamodule, "input_shape", self.input_shape)
        if stage == "fit":
            check_fact(self.datamodule, "num_classes", self.num_classes)
            if not isinstance(self.datamodule, DataModule):
                raise IncompatibleError(
                    "TransductiveFewShot looks at all training images after an epoch, which only a "
                    "framework.data.datamodule.DataModule can give."
                )
            self._mean_step = None
        super().setup(stage)

    def check_numbers(self, batch: Batch) -> None:
        """Refuse a training label that is no class."""
        super().check_numbers(batch)
        trainer = trainer_of(self)
        if trainer is not None and trainer.training:
            check_classes(batch["label"], self.num_classes)

    # ---- training -------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K) of the base classes."""
        return self.head(self.backbone(image))

    def objectives(self, batch: Batch) -> Objectives:
        """Return the term ``classification``."""
        image = batch["image"]
        if image.ndim != 4:
            raise IncompatibleError(
                f"TransductiveFewShot trains on images (B, C, H, W), and a batch of this data "
                f"holds {tuple(image.shape)}: wrap the images in BaseAndNovel."
            )
        features = self.backbone(image)
        objectives = Objectives(
            predictions=self.head(features),
            targets=batch["label"],
            index=batch.get("index"),
            features=features,
        )
        self.add_term(objectives, "classification", self.criterion, inputs=image)
        return objectives

    @torch.no_grad()
    def _take_mean(self) -> None:
        """Take the mean of the features of all training images, once for a step."""
        if self._mean_step == self.global_step:
            return
        self._mean_step = self.global_step
        mean = self.state.mean
        total = torch.zeros(len(mean) + 1, dtype=torch.float64, device=mean.device)

        def add(batch: Batch) -> None:
            features = self.backbone(batch["image"]).double()
            total.add_(torch.cat([features.sum(0), total.new_tensor([float(len(features))])]))

        data: Any = self.datamodule
        visit(self, data.ordered_train_dataloader(batch_size=data.batch_size), add)
        total = all_reduce_sum(total)
        mean.copy_(total[:-1] / total[-1])

    def on_train_epoch_end(self) -> None:
        """Take the mean of the base features, for the checkpoint."""
        super().on_train_epoch_end()
        self._take_mean()

    def on_validation_epoch_start(self) -> None:
        """Take the mean of the base features in training; else it is the checkpoint's."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._take_mean()
        self._scores.run_with(self._settings())

    def on_test_epoch_start(self) -> None:
        """Take the weights that validation chose."""
        self._scores.run_with(self._settings())

    # ---- episodes -------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Embedded:
        """Return the normalized features of episodes."""
        if "support" not in batch:
            raise IncompatibleError(
                "The batches of evaluation and prediction lack 'support': TransductiveFewShot "
                "classifies episodes, which data.class_path BaseAndNovel draws."
            )
        image, label = batch["image"], batch["label"]
        ways, shots = batch["support"].shape[1:]
        features = self.backbone(image.flatten(0, 1)).unflatten(0, image.shape[:2])
        support, query = label.split([ways * shots, label.shape[1] - ways * shots], dim=1)
        return Embedded(centered_unit_norm(features, self.state.mean), support, query, ways)

    def solve(self, found: Embedded, solver: SolverName, lam: float) -> Tensor:
        """Return the classes of the queries, (E, Q) int64.

        Args:
            found: Features of E episodes.
            solver: Name of the solver.
            lam: Weight of its Laplacian term.
        """
        features = found.features
        if self.query_shift and solver != "nearest_prototype":
            features = shift_queries(features, found.support_label.shape[1])
        solve = few_shot_solver(solver, lam, self.knn)
        return solve.fit_predict(features, found.support_label, found.ways)

    def lambda_of(self, solver: SolverName) -> float:
        """Return the weight of a solver's Laplacian term that was chosen, 0 where it has none."""
        if solver not in self.weighted:
            return 0.0
        # of the digits that float32 keeps
        return round(float(self.state.lam[self.weighted.index(solver)]), 6)

    @property
    def _scores(self) -> SolverAccuracy:
        """The accuracies of the present evaluation."""
        return cast(SolverAccuracy, self.metrics["solvers"])

    def _settings(self) -> dict[str, tuple[float, ...]]:
        """Return the weights that each solver is run with in the present evaluation."""
        grid = self.lambdas if self.stage == "val" else ()
        return {
            name: (grid or (self.lambda_of(name),)) if name in self.weighted else ()
            for name in self.solvers
        }

    def evaluate(self, batch: Batch) -> None:
        """Classify the queries of episodes by all solvers."""
        found = self.embed(batch)
        columns = []
        for name in self.solvers:
            for lam in self._scores.settings[name] or (0.0,):
                shown = self.solve(found, name, lam)
                columns.append((shown == found.query_label).float().mean(-1))
        if len(self._scores.settings[self.solvers[-1]]) > 1:
            shown = self.solve(found, self.solvers[-1], self.lambda_of(self.solvers[-1]))
        self._scores.update(torch.stack(columns, dim=1), batch["index"])
        label = torch.cat([found.support_label, found.query_label], dim=1)
        self.metrics["first"].update(found.features, label, shown, batch["index"])

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the accuracies of all solvers, and the first episode."""
        return {
            "solvers": SolverAccuracy(dict.fromkeys(self.solvers, ())),
            "first": FirstEpisode(self.embedding_dim),
        }

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and keep the best weights of the Laplacian term."""
        super().on_validation_epoch_end()
        if self.trainer.sanity_checking:
            return
        for number, name in enumerate(self.weighted):
            if self.trainer.state.fn == "fit":
                self.state.lam[number] = self.metric_values[f"lambda@{name}"]

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the class in the episode of every query, (E, Q), by the last solver."""
        name = self.solvers[-1]
        return {"prediction": self.solve(self.embed(batch), name, self.lambda_of(name))}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the first episode, and the accuracies by lambda where several were tried."""
        from framework.embedding.figures.episode import accuracy_by_lambda, episode_map

        figures = {}
        if "episode" in values:
            figures["episode"] = episode_map(values["episode"], self.solvers[-1])
        curves: dict[str, Tensor] = {
            str(name): values[f"curve@{name}"]
            for name in self.weighted
            if f"curve@{name}" in values
        }
        if curves:
            figures["lambda"] = accuracy_by_lambda(curves, self.lambdas)
        return figures
