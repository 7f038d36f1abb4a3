"""Clustering of the nodes of a graph by contrast with clusters: PamC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.clustering.student_t import assignment_divergence
from framework.clustering.target_distribution import dec_target_distribution
from framework.data.datasets import Batch
from framework.graphs.full_negative import FullNegativeLoss
from framework.graphs.pamc import PamCLoss
from framework.graphs.powers import adjacency_powers
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.solvers.initial_clusters import centroids, check_options, initial_clusters
from framework.training.compatibility import check_fact
from framework.training.module import TrainingOptions
from framework.utilities.checks import check_at_least, check_one_of
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.precision import at_least_float32
from framework.utilities.randomness import global_seed
from modules.graph_clustering.evaluation import (
    NodeClusterEvaluation,
    counted_nodes,
    logger,
)
from modules.graph_clustering.scores import scores_of

Objective = Literal["pamc", "full_negative"]
KMEANS = {"n_init": 20}


class GraphClustering(NodeClusterEvaluation):
    r"""Clusters the nodes of a graph by a perceptron that edges teach and that needs none later.

    A run has two phases, each with a fresh optimizer: for ``pretrain_epochs`` an auto-encoder
    reconstructs the features; then k-means on the code of all nodes places the centers of a
    Student's t-assignment q, and until the run ends the encoder and the centers minimize

    .. math:: \alpha L_\mathrm{contrast}
              + \beta \tfrac1N \textstyle\sum_i \mathrm{KL}(p_i \| q_i)

    where p is DEC's target of q, made anew in every step, and the contrast is ``PamCLoss`` on the
    clusters of q, or ``FullNegativeLoss``. Neighbors are weighed by powers of the graph's
    normalized adjacency, see ``adjacency_powers``.

    A batch is the whole graph: ``x`` (N, F) float32, ``edge_index`` (2, E) int64 and
    ``edge_weight`` (E,) with both directions of each edge. ``index`` holds the nodes that a rank
    counts, default all, and ``label`` (N,) int64 is looked at by metrics only. On several ranks
    each holds the whole graph and computes all of it, so that they take the steps of one process,
    in no less time.
    Terms: ``reconstruction`` in the first phase, then ``contrast``, ``clustering`` and, with
    ``lambda_rec``, ``reconstruction``.

    ``val/accuracy`` and ``val/f1`` are those under the best one-to-one assignment of clusters to
    classes, ``val/nmi_arithmetic`` the mutual information over the mean of the entropies;
    ``val/accuracy/kmeans_code`` and others are those of k-means on the auto-encoder's code and on
    the features. Without labels there are ``val/modularity``, ``val/conductance``,
    ``val/smallest_cluster`` and ``val/max_probability``.

    Paper: Kulatilleke, Portmann and Chandra, Efficient block contrastive learning via
    parameter-free meta-node approximation, arXiv:2209.14067. The published auto-encoder is trained
    in batches of nodes; here every step sees all of them. The released code (gayanku/PAMC) reports
    the largest value over epochs of each metric, chosen by the classes; here a value is its
    epoch's.

    Args:
        num_clusters: Number K of clusters.
        input_shape: Number of features of a node, as a list of one number; None for that of the
            data, see ``for_data``.
        hidden: Sizes of the encoder's hidden layers; the decoder mirrors them.
        code_size: Size of the code.
        objective: Contrast with meta-nodes, ``pamc``, or with all nodes, ``full_negative``.
        alpha: Weight of the contrast.
        beta: Weight of the divergence from the target.
        lambda_rec: Weight of the reconstruction in the joint phase; published is 0, which only
            logs it.
        order: Largest number of steps to a node that counts as a neighbor.
        influence: Whether the powers of the adjacency up to ``order`` are summed, instead of the
            last one alone.
        tau: Factor of the cosines, the inverse of a temperature.
        size_weighted: Whether the clusters of ``pamc`` count by their nodes.
        nu: Degrees of freedom of the assignment.
        pretrain_epochs: Epochs of the auto-encoder.
        init_options: Arguments of scikit-learn's ``KMeans``; published are 20 starts.
        baselines: Whether k-means on the features is measured too.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: An argument is out of its range, or nothing says how many features there are.
        IncompatibleError: The data has other features, or other graphs within a fit.
        GraphTooDenseError: The powers of the adjacency would not fit into memory.

    Example:
        >>> model = GraphClustering(num_clusters=10, input_shape=[64], hidden=[128])
        >>> model(torch.zeros(3, 64)).exp().sum(1).allclose(torch.ones(3))
        True
    """

    required_fields = ("x", "edge_index", "edge_weight")
    provides: tuple[str, ...] = ("per_sample", "predictions", "index", "features")
    arguments_from_data: Mapping[str, str] = {"input_shape": "input_shape"}
    whole_parameters = True

    def __init__(
        self,
        num_clusters: int = 10,
        input_shape: Sequence[int] | None = None,
        hidden: Sequence[int] = (500, 500, 2000),
        code_size: int = 10,
        objective: Objective = "pamc",
        alpha: float = 1.0,
        beta: float = 1.0,
        lambda_rec: float = 0.0,
        order: int = 1,
        influence: bool = True,
        tau: float = 0.5,
        size_weighted: bool = False,
        nu: float = 1.0,
        pretrain_epochs: int = 50,
        init_options: dict[str, Any] | None = None,
        baselines: bool = True,
        optimizer: OptimizerCallable = torch.optim.Adam,
        **options: Unpack[TrainingOptions],
    ) -> None:
        if input_shape is None or len(input_shape) != 1:
            raise ValueError(
                "input_shape must be the number of a node's features, such as [1433], got "
                f"{input_shape}; in Python {type(self).__name__}.for_data(data) takes it from the "
                "data."
            )
        check_at_least(2, num_clusters=num_clusters)
        check_at_least(1, order=order)
        check_at_least(
            0, alpha=alpha, beta=beta, lambda_rec=lambda_rec, pretrain_epochs=pretrain_epochs
        )
        check_one_of(get_args(Objective), objective=objective)
        super().__init__([*input_shape, *hidden, code_size], num_clusters, nu, optimizer, **options)
        self.pamc = PamCLoss(tau=tau, size_weighted=size_weighted, reduction="none")
        self.full_negative = FullNegativeLoss(tau=tau, reduction="none")
        self.objective = objective
        self.alpha = alpha
        self.beta = beta
        self.lambda_rec = lambda_rec
        self.order = order
        self.influence = influence
        self.pretrain_epochs = pretrain_epochs
        self.init_options = KMEANS | (init_options or {})
        self.baselines = baselines
        self._near: tuple[Tensor, Tensor] | None = None
        self._size = (0, 0)

    # ---- the phases -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the data fits."""
        check_fact(self.datamodule, "input_shape", self.input_shape)
        super().setup(stage)
        if stage != "fit":
            return
        check_options("kmeans", self.num_clusters, self.init_options)
        # another fit of the same module starts anew; a checkpoint is restored only later
        self.phase = self._phase_start = 0
        self.placed, self.stages, self._near = False, {}, None

    def on_train_epoch_start(self) -> None:
        """Go on to the joint phase where the first one is over."""
        if self.phase == 0 and self.current_epoch >= self.pretrain_epochs:
            self.new_phase()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Refuse a graph that is too dense at once, and find the first clusters in time."""
        batch = self.fields_of(batch)
        with torch.no_grad():
            self.neighbors(batch)
            if self.phase and not self.placed:
                with evaluation_mode(self), self.trainer.precision_plugin.forward_context():
                    self._place(batch)

    def _place(self, batch: Batch) -> None:
        """Put the centers where k-means finds clusters, and measure where there are labels."""
        z = at_least_float32(self.encoder(batch["x"]))
        found = {"kmeans_code": self._kmeans(z)}
        self.head.place(centroids(z, found["kmeans_code"], self.num_clusters))
        self.placed = True
        if not self.labeled:
            return
        if self.baselines:
            found["kmeans_features"] = self._kmeans(batch["x"])
        for name, cluster in found.items():
            self.stages[name] = scores_of(cluster, batch["label"], self.num_clusters)

    def _kmeans(self, rows: Tensor) -> Tensor:
        return initial_clusters(
            rows, self.num_clusters, "kmeans", global_seed(), **self.init_options
        )

    def on_train_epoch_end(self) -> None:
        """Log the phase."""
        super().on_train_epoch_end()
        self.log("train/phase", float(self.phase))

    def on_train_end(self) -> None:
        """Warn of a run that ended too early to mean anything."""
        if not self.placed:
            logger.warning(
                f"The run ended before its clusters were found, which is in epoch "
                f"{self.pretrain_epochs}: continue it with a larger trainer.max_epochs."
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups, in each phase without the part that rests."""
        groups = super().parameter_groups()
        if self.phase and self.lambda_rec:
            return groups
        resting = self.decoder if self.phase else self.head
        left_out = {id(p) for p in resting.parameters()}
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in left_out]
        return [group for group in groups if group["params"]]

    def shared_parameters(self) -> list[torch.nn.Parameter]:
        """Return the encoder, the only part that all terms act on."""
        return list(self.encoder.parameters())

    # ---- training -------------------------------------------------------------------------------

    def neighbors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return how near nodes are, as edges and weights, computed once in a fit.

        Raises:
            IncompatibleError: The batch is another graph than the first one.
        """
        size = (len(batch["x"]), batch["edge_index"].shape[1])
        if self._near is None:
            self._size = size
            self._near = adjacency_powers(
                batch["edge_index"],
                size[0],
                at_least_float32(batch["edge_weight"]),
                order=self.order,
                cumulative=self.influence,
            )
        if size != self._size:
            raise IncompatibleError(
                f"A batch has {size[0]} nodes and {size[1]} edges, and the first one had "
                f"{self._size[0]} and {self._size[1]}: every batch must be the whole graph."
            )
        return self._near

    def objectives(self, batch: Batch) -> Objectives:
        """Return ``reconstruction`` in the first phase, then ``contrast`` and ``clustering``."""
        x = batch["x"]
        rows = counted_nodes(batch)
        z = self.encoder(x)
        log_q = self.head(z)
        objectives = Objectives(predictions=log_q[rows], index=rows, features=z[rows])
        if self.phase == 0:
            error = self._reconstruction(z, x)
            # keeps the resting head in the graph, which DDP expects
            objectives.per_sample["reconstruction"] = (error + 0 * log_q.sum(1))[rows]
            return objectives
        p = dec_target_distribution(log_q.detach().exp(), "square")
        contrast = self._contrast(z, log_q, batch)[rows]
        if self.lambda_rec:
            objectives.per_sample["reconstruction"] = self._reconstruction(z, x)[rows]
        else:
            with torch.no_grad():
                error = self._reconstruction(z, x)[rows]
            objectives.logs["reconstruction"] = error.mean()
            resting = [0 * parameter.sum() for parameter in self.decoder.parameters()]
            contrast = contrast + torch.stack(resting).sum()
        objectives.per_sample["contrast"] = contrast
        objectives.per_sample["clustering"] = assignment_divergence(log_q, p)[rows]
        objectives.weights = {
            "reconstruction": self.lambda_rec,
            "contrast": self.alpha,
            "clustering": self.beta,
        }
        return objectives

    def _contrast(self, z: Tensor, log_q: Tensor, batch: Batch) -> Tensor:
        """Return the contrast of every node, (N,)."""
        near = self.neighbors(batch)
        if self.objective == "full_negative":
            return self.full_negative(z, *near)
        return self.pamc(z, *near, log_q.argmax(1), self.num_clusters)

    # ---- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whether the clusters were found, and the scores of the baselines."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["graph_clustering"] = {"placed": self.placed, "stages": self.stages}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue in the phase of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["graph_clustering"]
        self.placed, self.stages = state["placed"], state["stages"]
