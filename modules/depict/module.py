"""Deep clustering without labels: DEPICT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from framework.clustering.reconstruction import layerwise_reconstruction_error
from framework.clustering.target_distribution import TargetKind, unseen_target_distribution
from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.distributed.collectives import rank
from framework.losses.loss import ClassificationLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.solvers.initial_clusters import (
    InitKind,
    centroids,
    check_options,
    initial_clusters,
)
from framework.training.compatibility import check_fact, check_unmixed
from framework.training.module import TrainingOptions
from framework.utilities.checks import check_at_least, check_interval, check_one_of
from framework.utilities.lightning_internals import logged_step
from framework.utilities.randomness import global_seed
from modules.depict.baselines import initial_scores
from modules.depict.evaluation import ClusterEvaluation, logger
from modules.depict.network import DEPICTNetwork, MultiLayerDenoisingAE
from modules.depict.phases import PhasePlan, load_parameters
from modules.depict.sample_tables import SampleTables
from modules.depict.scores import agreement, sample_codes, stage_scores
from modules.depict.snapshots import Snapshots

Refresh = Literal["running", "full"]
ROUNDING = 0.01
"""How far beyond [-1, 1] an image may lie, as half precision and resizing bring about."""
Criterion = nn.CrossEntropyLoss | ClassificationLoss


class DEPICT(ClusterEvaluation):
    r"""Clusters images by a denoising auto-encoder whose soft assignments become their own target.

    One run has these phases, each with a fresh optimizer:

    ``autoencoder``
        every layer of the clean encoder is reconstructed from the noisy code; a held-out part of
        the samples decides when to stop, and the best weights are kept.
    ``head``
        k-means or AC-PIC on the clean code of all samples gives first labels; the rows of the head
        become the normalized centroids, and the head learns the labels. The agreement (NMI) with
        the labels of the held-out part decides when to stop; the best weights are kept.
    ``baseline``
        only with ``baselines`` and labels: what DEC's target makes of the same start, without
        reconstruction. Its scores are kept and its weights forgotten.
    ``joint``
        from all clean assignments P the target Q is computed in closed form, once per epoch; the
        noisy assignments learn Q by cross-entropy while the decoder reconstructs. It ends when the
        mean squared change of Q falls below ``tol``, and with it the run, unless
        ``trainer.max_epochs`` ended it before.

    A batch holds ``image`` (B, C, H, W) float32 in [-1, 1] and ``index`` (B,), and may hold
    ``label`` (B,) int64, which is looked at by metrics only. Wrap the data in ``WholeSet``, so that
    all samples are clustered and measured. Terms: ``reconstruction``, ``clustering``.
    ``val/accuracy`` is that under the best one-to-one assignment of clusters to classes,
    ``val/nmi_geometric`` the mutual information over the geometric mean of the entropies,
    ``val/smallest_frequency`` the smallest mean probability of a cluster, which is what the targets
    balance, ``val/smallest_cluster`` the share of samples in the smallest cluster, and
    ``val/max_probability`` the mean probability of a sample's cluster. ``val/accuracy/...`` are
    the baselines: k-means on pixels and on the code, after the head, and DEC's target.

    Paper: Ghasedi Dizaji et al., *Deep Clustering via Joint Convolutional Autoencoder Embedding and
    Relative Entropy Minimization*, ICCV 2017, arXiv:1704.06327. The default target is the paper's;
    the released code (herandy/DEPICT) runs ``square``, and ``hidden_weight`` 0.1 is its. Unlike in
    that code first labels are not shifted by one, AC-PIC's centroids are not transposed, the
    held-out part is drawn without labels, and no sample is dropped at the end of an epoch.

    Args:
        num_clusters: Number K of clusters, also the size of the code.
        input_shape: Shape (C, H, W) of an image.
        channels: Channels of each convolution.
        kernels: Kernel size of each convolution.
        strides: Stride of each convolution.
        paddings: Padding of each convolution.
        dropouts: Dropout rates behind the input and behind each convolution.
        target: Formula of Q: ``sqrt``, ``square`` or ``exact``.
        hidden_weight: Weight of the hidden layers in the reconstruction.
        lambda_rec: Weight of the reconstruction in the phases ``head`` and ``joint``.
        lambda_clus: Weight of the clustering loss.
        detach_targets: Whether the gradient of the reconstruction stays out of the clean encoder.
        init: Method that finds the first clusters, ``kmeans`` or ``acpic``.
        init_options: Arguments of scikit-learn's ``KMeans`` or of ``AgglomerativePathIntegral``.
        phase_epochs: Most epochs of the phases ``autoencoder``, ``head`` and ``joint``.
        patience: Epochs without improvement after which ``autoencoder`` and ``head`` end.
        held_out: Share of the samples that decides over the end of these two; 0 for none.
        tol: Change of Q below which the run ends.
        refresh: Time at which clean assignments are computed: ``running`` takes each sample's right
            after the step that it was part of, ``full`` computes all of them at each epoch's end.
        baselines: Whether to measure k-means on pixels and DEC's target, which takes as long as
            ``joint`` and moves it to later epochs, whose batches and noise are others.
        criterion: Clustering loss, one that takes soft targets; default cross-entropy.
        optimizer: Optimizer of the parameters; published is Adam with a rate of 1e-4.
        lr_scheduler: Schedule of the learning rate, in each phase from its start.
        gradient_combiner: Method that makes one gradient of those of the terms, for the encoder;
            None adds them.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: An argument is out of its range, or the criterion is for hard labels only.
        IncompatibleError: The data has another shape, mixup, or no positions (at ``setup``).

    Example:
        >>> import torch
        >>> from modules import DEPICT
        >>> model = DEPICT(num_clusters=10, input_shape=(1, 28, 28))
        >>> tuple(model(torch.zeros(2, 1, 28, 28)).shape)
        (2, 10)
    """

    required_fields = ("image", "index")
    provides: tuple[str, ...] = ("per_sample", "predictions", "index", "features")
    whole_parameters = True

    def __init__(
        self,
        num_clusters: int = 10,
        input_shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (50, 50),
        kernels: Sequence[int] = (4, 5),
        strides: Sequence[int] = (2, 2),
        paddings: Sequence[int] = (0, 2),
        dropouts: Sequence[float] = (0.1, 0.1, 0.0),
        target: TargetKind = "sqrt",
        hidden_weight: float = 0.1,
        lambda_rec: float = 1.0,
        lambda_clus: float = 1.0,
        detach_targets: bool = False,
        init: InitKind = "kmeans",
        init_options: dict[str, Any] | None = None,
        phase_epochs: tuple[int, int, int] = (4001, 1000, 4000),
        patience: tuple[int, int] = (100, 5),
        held_out: float = 0.1,
        tol: float = 1e-7,
        refresh: Refresh = "running",
        baselines: bool = True,
        criterion: Criterion | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        **options: Unpack[TrainingOptions],
    ) -> None:
        plan = PhasePlan(phase_epochs, patience)
        check_at_least(2, num_clusters=num_clusters)
        check_interval("[0, 1)", held_out=held_out)
        check_at_least(
            0, hidden_weight=hidden_weight, lambda_rec=lambda_rec, lambda_clus=lambda_clus, tol=tol
        )
        check_one_of(get_args(TargetKind), target=target)
        check_one_of(get_args(InitKind), init=init)
        check_one_of(get_args(Refresh), refresh=refresh)
        autoencoder = MultiLayerDenoisingAE(
            input_shape=input_shape,
            code_size=num_clusters,
            channels=channels,
            kernels=kernels,
            strides=strides,
            paddings=paddings,
            dropouts=dropouts,
        )
        super().__init__(
            DEPICTNetwork(autoencoder, num_clusters),
            hidden_weight=hidden_weight,
            phase=plan.begin("autoencoder"),
            optimizer=optimizer,
            **options,
        )
        self.plan = plan
        self.target = target
        self.lambda_rec = lambda_rec
        self.lambda_clus = lambda_clus
        self.detach_targets = detach_targets
        self.init = init
        self.init_options = init_options or {}
        self.held_out = held_out
        self.tol = tol
        self.refresh = refresh
        self.baselines = baselines
        self.criterion = criterion if criterion is not None else nn.CrossEntropyLoss()
        if not getattr(self.criterion, "soft_targets", True):
            raise ValueError(
                f"DEPICT's targets are probabilities, and {type(self.criterion).__name__} is "
                "defined for hard labels only."
            )
        self._start: dict[str, Tensor] = {}
        self._recent: list[Batch] = []
        self._saw_images = False

    # ---- the phases -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the data fits, and allocate the memory of every sample."""
        data = self.datamodule
        check_fact(data, "input_shape", self.network.input_shape)
        check_unmixed(data, "DEPICT remembers the assignment of every sample")
        super().setup(stage)
        if stage != "fit":
            return
        if not isinstance(data, DataModule):
            raise IncompatibleError(
                "DEPICT looks at all samples between epochs, which only a "
                "framework.data.datamodule.DataModule can give."
            )
        # another fit of the same module starts anew; a checkpoint is restored only later
        self.phase = self._phase_start = 0
        self.part = self.plan.begin("autoencoder")
        self.stages, self.snapshots, self._start = {}, Snapshots(), {}
        self._saw_images = False
        check_options(self.init, self.num_clusters, self.init_options)
        self.tables = SampleTables(
            data, self.num_clusters, self.held_out, device=self.trainer.strategy.root_device
        )
        # a checkpoint keeps the tables of the module itself
        self.assignments = self.tables.assignments
        self.targets = self.tables.targets
        self.first_label = self.tables.first_label

    def on_train_start(self) -> None:
        """Stop at once where a run that had come to its end is resumed."""
        super().on_train_start()
        self._stop_at_the_end(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Warn, at the first batch, of images that the decoder's tanh cannot reach."""
        if self._saw_images:
            return
        image = self.fields_of(batch)["image"]
        if not image.numel():
            return
        self._saw_images = True
        low, high = image.min().item(), image.max().item()
        if rank() == 0 and max(-low, high) > 1 + ROUNDING:
            logger.warning(
                f"The images lie in [{low:.3g}, {high:.3g}], and DEPICT's decoder ends in a tanh, "
                "which reaches [-1, 1] alone: scale them by mean [0.5] and std [0.5] of the data."
            )

    def on_train_epoch_start(self) -> None:
        """Go on to the next phase where one is over."""
        while self.part.is_over(self.current_epoch) and self.part.name != "joint":
            self._begin(self._finish())

    def _finish(self) -> str:
        """Finish the present phase and return the name of the next one."""
        if self.part.name == "autoencoder":
            self.part.restore_best(self.network)
            self._find_clusters()
            return "head"
        if self.part.name == "head":
            self.part.restore_best(self.network)
            self._score("head")
            if not (self.baselines and self.labeled):
                return "joint"
            self._start = {n: p.detach().clone() for n, p in self.network.named_parameters()}
            return "baseline"
        self._score("dec")
        load_parameters(self.network, self._start)
        self._start = {}
        return "joint"

    def _begin(self, name: str) -> None:
        self.part = self.plan.begin(name, self.current_epoch)
        if name != "head":
            self._remember_all()
            self._update_targets()
        self.new_phase()

    def on_train_epoch_end(self) -> None:
        """Compute new targets, or judge by the held-out samples whether the phase should end."""
        super().on_train_epoch_end()
        self.log("train/phase", float(self.phase))
        name = self.part.name
        if name == "autoencoder" and self.tables.held_out_rows:
            score = self._held_out_reconstruction()
            self.part.report(score, self.network)
            self._log_now("heldout_reconstruction", score)
        elif name == "head" and self.tables.held_out_rows:
            score = self._held_out_agreement()
            self.part.report(-score, self.network)
            self._log_now("heldout_agreement", score)
        elif name in ("baseline", "joint"):
            if self.refresh == "full":
                self._remember_all()
            change = self._update_targets()
            self.part.converged = change < self.tol
            self._log_now("target_change", change)
        self._stop_at_the_end(self.current_epoch + 1)

    def _log_now(self, name: str, value: float) -> None:
        """Log the score of the phase at once; `self.log` would repeat it after the phase."""
        # the number under which Lightning logs what belongs to the epoch's last step
        step = logged_step(self.trainer) - 1
        row = {"epoch": self.current_epoch, f"train/{name}_epoch": value}
        for target in self.trainer.loggers:
            target.log_metrics(row, step=step)

    def on_train_end(self) -> None:
        """Warn of a run that ended too early to mean anything."""
        if self.part.name != "joint":
            logger.warning(
                f"The run ended in the phase {self.part.name!r}, before the joint phase: continue "
                "it with a larger trainer.max_epochs."
            )

    def _stop_at_the_end(self, epoch: int) -> None:
        if self.part.name == "joint" and self.part.is_over(epoch):
            self.trainer.should_stop = True

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups; the head rests as long as there are no clusters."""
        groups = super().parameter_groups()
        if self.clusters_exist:
            return groups
        head = {id(p) for p in self.network.head.parameters()}
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in head]
        return groups

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the encoder, the only part that both terms act on."""
        return self.network.autoencoder.encoder_parameters

    # ---- all samples at once --------------------------------------------------------------------

    def _find_clusters(self) -> None:
        """Cluster the codes of all samples, place the head, and measure where there are labels."""
        found = self._sweep(lambda image: {"code": self.network.code(image)})
        code, seed, clusters = found["code"], global_seed(), self.num_clusters
        first = initial_clusters(code, clusters, self.init, seed, **self.init_options)
        self.tables.write(self.first_label, found["index"], first)
        self.network.place_clusters(centroids(code, first, clusters))
        codes = sample_codes(code, first, found["index"], found.get("label"))
        self.snapshots.add(f"epoch {self.current_epoch}: auto-encoder", codes)
        if not self.labeled:
            return
        pixels = None
        if self.baselines:
            pixels = self._sweep(lambda image: {"pixel": image.flatten(1)})["pixel"]
        self.stages |= initial_scores(
            first,
            code,
            found["label"],
            kind=self.init,
            num_clusters=clusters,
            seed=seed,
            options=self.init_options,
            pixels=pixels,
        )

    def _score(self, stage: str) -> None:
        if self.labeled:
            found = self._sweep(lambda image: {"cluster": self.assign(image).argmax(1)})
            scores = stage_scores(found["cluster"], found["label"], self.num_clusters)
            self.stages[stage] = scores

    def _held_out_reconstruction(self) -> float:
        found = self._sweep(
            lambda image: {"error": self.reconstruct(image)[0]}, self.tables.held_out_rows
        )
        return float(found["error"].double().mean())

    def _held_out_agreement(self) -> float:
        found = self._sweep(
            lambda image: {"cluster": self.assign(image).argmax(1)}, self.tables.held_out_rows
        )
        return agreement(found["cluster"], self.first_label.read(found["index"]))

    def _remember_all(self) -> None:
        """Compute the clean assignments of all samples."""
        found = self._sweep(lambda image: {"assignment": self.assign(image)})
        self.tables.write(self.assignments, found["index"], found["assignment"])

    @property
    def _kind(self) -> TargetKind:
        return "square" if self.part.name == "baseline" else self.target

    def _update_targets(self) -> float:
        """Make Q of P and return the mean squared change of Q."""
        return self.tables.update_targets(self._kind)

    # ---- training -------------------------------------------------------------------------------

    def objectives(self, batch: Batch) -> Objectives:
        """Return the term ``reconstruction`` and, once there are clusters, ``clustering``."""
        index = batch["index"]
        known = self.first_label if self.part.name == "head" else self.targets
        targets = known.read(index) if self.clusters_exist else None
        objectives = self._objectives(batch, targets)
        if self.part.name in ("autoencoder", "head"):
            objectives.sample_weight = (~self.tables.held_out[index]).float()
        return objectives

    def guide_objectives(self, batch: Batch) -> Objectives:
        """Return the terms of samples that are not trained, and so have no targets of their own.

        Their targets are made of their own assignments, with the frequencies of the clusters among
        the samples that are trained. In the phase ``head`` the most likely cluster is the label.
        """
        if not self.clusters_exist:
            return self._objectives(batch, None)
        with torch.no_grad():
            p = self.assign(batch["image"])
        if self.part.name == "head":
            return self._objectives(batch, p.argmax(1))
        known = (self.targets if self._kind == "exact" else self.assignments).read(
            self.tables.index
        )
        return self._objectives(batch, unseen_target_distribution(p, known, self._kind))

    def _objectives(self, batch: Batch, targets: Tensor | None) -> Objectives:
        layers, logits = self.network(batch["image"])
        clean = layers.clean[:-1]
        if self.detach_targets:
            clean = [layer.detach() for layer in clean]
        reconstruction = layerwise_reconstruction_error(clean, layers.decoded, self.hidden_weight)
        objectives = Objectives(
            per_sample={"reconstruction": reconstruction},
            predictions=logits,
            index=batch["index"],
            features=layers.noisy[-1],
        )
        if targets is None:
            # keeps the resting head in the graph, which DDP expects
            objectives.per_sample["reconstruction"] = reconstruction + 0 * logits.sum(1)
            return objectives
        objectives.targets = targets
        self.add_term(objectives, "clustering", self.criterion, inputs=batch["image"])
        rest = self.part.name == "baseline"
        objectives.weights = {
            "reconstruction": 0.0 if rest else self.lambda_rec,
            "clustering": self.lambda_clus,
        }
        return objectives

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, and note the samples whose assignments the step will change."""
        if self.refresh == "running" and self.part.name in ("baseline", "joint"):
            self._recent.append(batch)
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, then remember the clean assignments of the samples it was made of.

        Not at the batch's end, where checkpoints are written before the module is asked.
        """
        super().optimizer_step(*args, **kwargs)
        recent, self._recent = self._recent, []
        for batch in recent:
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                assignment = self.assign(batch["image"])
            self.assignments.write(batch["index"], assignment)

    # ---- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the phase, its best weights, and the scores and codes of earlier ones."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["depict"] = {
            "part": self.part.state_dict(),
            "start": {name: value.cpu() for name, value in self._start.items()},
            "stages": self.stages,
            "snapshots": self.snapshots.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue in the phase of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["depict"]
        self.part = self.plan.begin(state["part"]["name"])
        self.part.load_state_dict(state["part"])
        self._start = state["start"]
        self.stages = state["stages"]
        self.snapshots.load_state_dict(state["snapshots"])
