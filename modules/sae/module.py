"""Training of a sparse autoencoder on activations."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from framework.data.datasets import Batch
from framework.distributed.collectives import all_reduce_sum, rank, world_size
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import STEP, Panel
from framework.sparse_coding.decoder_overlap import duplicate_share
from framework.sparse_coding.normalization import Normalization
from framework.sparse_coding.selection import Selection
from framework.sparse_coding.sparse_code import SparseCode
from framework.sparse_coding.zipf import fit_zipf
from framework.training.compatibility import check_fact
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.checks import check_at_least, check_one_of
from framework.utilities.precision import FullPrecision, at_least_float32
from modules.sae.activations import Activation
from modules.sae.auxiliary import PUBLISHED_DEAD_TOKENS, AuxiliaryLoss, dead_tokens_warning
from modules.sae.calibration import calibrated_thresholds, scaled_thresholds
from modules.sae.export import check_exportable, save_autoencoder
from modules.sae.network import (
    Code,
    Encoding,
    SparseAutoencoder,
    active_per_feature,
    active_per_token,
)
from modules.sae.scores import autoencoder_metrics, measure
from modules.sae.statistics import smallest_values

Denominator = Literal["batch", "fixed", "none"]
logger = logging.getLogger("lightning.pytorch")
START_TOKENS = 1 << 14
"""Number of activations at whose mean the bias starts."""
CALIBRATION_TOKENS = 1 << 16
"""Number of training activations that give each feature its threshold."""


class SparseAutoencoderModule(FullPrecision, TrainingModule):
    """Trains a sparse autoencoder or transcoder by its reconstruction and auxiliary losses.

    A batch holds ``activation`` (B, d) float32 and, for transcoders, ``target``
    (B, d_out). Terms are ``reconstruction``, the squared error over the batch's variance (1 is what
    the mean would reach; with groups the sum over the prefixes), ``auxiliary``, and the penalties
    of an activation that has some. Selections, variances, densities and the clocks of dead features
    are those of the global batch, so that any number of ranks takes the same step.

    Each step takes from the decoder's gradient what would change the directions' lengths, clips,
    steps, and sets the lengths to 1. The decoder's bias starts at the mean of a sample.

    Evaluation encodes every token on its own, by thresholds where the selection looks across
    tokens. Its reconstruction by the batch's selection, ``fvu_batch_rule``, flatters.

    Paper: Ayonrinde, arXiv:2411.02124; Gao et al., arXiv:2406.04093.

    Args:
        d_in: Size d of an activation.
        d_sae: Number F of features.
        selection: Rule of ``framework.sparse_coding``, or activation of ``modules.sae``; default
            ``TokenChoice(32)``.
        d_out: Size of a transcoder's target; None for an autoencoder.
        skip: Whether a transcoder has a linear map beside the features.
        groups: Shares of nested groups of features (Matryoshka), with sum 1; empty for one group.
        auxiliary: Auxiliary loss; None for none.
        dead_tokens: Number of tokens after which a feature that has not fired is dead; None for a
            quarter of the run, at most the published 10,000,000.
        density_tokens: Horizon of the running densities in tokens.
        denominator: Divisor of the squared error: ``batch`` for the variance of each batch,
            ``fixed`` for that of the sample, ``none`` for no division, as penalties are usually
            weighed against.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: An argument is out of its range.
        IncompatibleError: The data has another size, or no targets for a transcoder (at ``setup``).

    Example:
        >>> import torch
        >>> from modules import SparseAutoencoderModule
        >>> model = SparseAutoencoderModule(d_in=8, d_sae=64)
        >>> tuple(model(torch.zeros(2, 8)).shape)
        (2, 8)
    """

    panels: tuple[Panel, ...] = (
        Panel("Unexplained variance", ("fvu*", "nmse_*"), "share of the variance", best="min"),
        Panel("Recovered loss of the language model", ("loss_recovered*",), "share of the loss"),
        Panel("Loss of the language model", ("ce_*", "delta_ce"), "nats"),
        Panel("Active features of a token", ("l0", "l0_std", "l0/*"), "features"),
        Panel("Active features, by step", ("train/l0",), "features", axis=STEP),
        Panel(
            "Dead and rare features",
            ("dead_share", "underused_share", "duplicate_share"),
            "share of the features",
        ),
        Panel("Dead features, by step", ("train/dead_share",), "share of the features", axis=STEP),
        Panel("Fit of the density", ("zipf_*",)),
        Panel("Direction and length", ("cos", "l2_ratio", "rel_rec_bias"), "ratio"),
    )
    required_fields: tuple[str, ...] = ("activation",)
    tuple_fields: tuple[str, ...] = ("activation",)
    provides: tuple[str, ...] = ("per_sample", "index")
    full_precision = ("variance",)
    whole_parameters = True
    compilable = False
    started: Tensor
    variance: Tensor

    def __init__(
        self,
        d_in: int = 384,
        d_sae: int = 3072,
        selection: Selection | Activation | None = None,
        d_out: int | None = None,
        skip: bool = False,
        groups: Sequence[float] = (),
        auxiliary: AuxiliaryLoss | None = None,
        dead_tokens: int | None = None,
        density_tokens: float = 1e6,
        denominator: Denominator = "batch",
        optimizer: OptimizerCallable = torch.optim.Adam,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        check_at_least(1, dead_tokens=dead_tokens, density_tokens=density_tokens)
        check_one_of(get_args(Denominator), denominator=denominator)
        if auxiliary is not None and isinstance(selection, Activation):
            raise ValueError(
                f"{type(auxiliary).__name__} helps features that a selection leaves out; "
                f"{type(selection).__name__} selects nothing."
            )
        if isinstance(selection, Activation) and denominator == "batch":
            raise ValueError(
                f"The penalty of {type(selection).__name__} is weighed against the squared error "
                "as it is: set denominator to none, or to fixed with a weight of its own."
            )
        self.sae = SparseAutoencoder(
            d_in=d_in,
            d_sae=d_sae,
            selection=selection,
            d_out=d_out,
            skip=skip,
            groups=groups,
            horizon=density_tokens,
        )
        if self.sae.transcoder:
            self.required_fields = self.tuple_fields = ("activation", "target")
        self.auxiliary = auxiliary
        self.dead_tokens = dead_tokens
        self.dead_after = PUBLISHED_DEAD_TOKENS if dead_tokens is None else dead_tokens
        """Tokens after which a feature is dead, known at the start of a fit."""
        self.denominator = denominator
        self._mixed: Tensor | None = None
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("variance", torch.ones(()))

    # ---- set-up -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the data has the model's sizes."""
        check_fact(self.datamodule, "input_size", self.sae.d_in, argument="d_in")
        if self.sae.transcoder:
            if getattr(self.datamodule, "target_size", self.sae.d_out) is None:
                raise IncompatibleError(
                    f"model.d_out={self.sae.d_out} makes a transcoder, but "
                    f"{type(self.datamodule).__name__} has no targets."
                )
            check_fact(self.datamodule, "target_size", self.sae.d_out, argument="d_out")
        super().setup(stage)

    def on_fit_start(self) -> None:
        """Start the bias at the mean of a sample, unless a checkpoint has brought one along."""
        super().on_fit_start()
        self._find_dead_after()
        activation = self.sae.selection
        steps = self.trainer.estimated_stepping_batches
        if isinstance(activation, Activation) and activation.warmup and not 0 < steps < math.inf:
            raise IncompatibleError(
                f"The penalty of {type(activation).__name__} grows over a share of the run, which "
                "has no end: set trainer.max_steps, or warmup to 0."
            )
        sample = getattr(self.datamodule, "sample", None)
        if sample is not None and not self.started:
            self.start_from(sample(START_TOKENS))
            self._note_sizes(getattr(self.datamodule, "normalizations", {}))

    def _find_dead_after(self) -> None:
        """Take the default from the length of the run, and warn of a window that does not fit."""
        steps = self.trainer.estimated_stepping_batches
        rows = getattr(self.datamodule, "batch_size", None)
        if rows is None or not 0 < steps < math.inf:
            return
        tokens = round(steps * rows * self.trainer.accumulate_grad_batches)
        if self.dead_tokens is None:
            self.dead_after = max(1, min(PUBLISHED_DEAD_TOKENS, tokens // 4))
        elif self.auxiliary is not None and rank() == 0:
            message = dead_tokens_warning(self.dead_tokens, tokens)
            if message is not None:
                logger.warning(message)

    @torch.no_grad()
    def start_from(self, sample: Batch) -> None:
        """Set the decoder's bias to the mean of a sample, and note its variance.

        Args:
            sample: Batch that is the same on every rank.
        """
        target = sample["target" if self.sae.transcoder else "activation"].double()
        mean = target.mean(0)
        self.sae.b_dec.copy_(mean)
        self.variance.copy_((target - mean).square().sum(1).mean())
        self.started.fill_(True)

    def _note_sizes(self, normalizations: dict[str, Normalization]) -> None:
        """Keep, for export, in which size the data gives its activations."""
        if normalizations:
            given = normalizations["activation"]
            target = normalizations["target"] if self.sae.transcoder else given
            self.sae.layernorm = given.mode == "layernorm"
            self.sae.input_scale.fill_(given.scale)
            self.sae.output_scale.fill_(target.scale)

    # ---- training -----------------------------------------------------------------------------

    def forward(self, activation: Tensor) -> Tensor:
        """Return reconstructions (B, d_out), of every token on its own."""
        return self.sae(activation)

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch["activation"],)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms of a step, and count which features fired."""
        x = batch["activation"]
        target = at_least_float32(batch["target"] if self.sae.transcoder else x)
        encoding = self.sae.encode_batch(x)
        rebuilt = self.sae.reconstructions(encoding.code, x)
        errors = target - rebuilt
        residual = errors[-1].detach()
        counts = active_per_feature(encoding.code)
        means = self._count_batch(counts, target, residual, self._smallest(encoding.code))
        objectives = Objectives(index=batch.get("index"))
        objectives.per_sample["reconstruction"] = errors.square().sum(-1).sum(0)
        spread = (target - means[0]).square().sum(1)
        if self.denominator == "batch":
            objectives.count["reconstruction"] = spread
        elif self.denominator == "fixed":
            objectives.count["reconstruction"] = self.variance.to(spread.dtype).expand(len(spread))
        if self.auxiliary is not None:
            self._add_auxiliary(objectives, encoding, residual, spread, means[1])
        self._add_penalties(objectives, encoding, target)
        dead = self.sae.statistics.dead(self.dead_after)
        objectives.logs = {
            "l0": active_per_token(encoding.code).to(target.dtype).mean(),
            "dead_share": dead.to(target.dtype).mean(),
        }
        return objectives

    def _count_batch(
        self, counts: Tensor, target: Tensor, residual: Tensor, smallest: Tensor
    ) -> Tensor:
        """Count the global batch, and return the mean target and residual, (2, d_out)."""
        rows = target.new_full((1,), len(target), dtype=torch.float64)
        sums = torch.stack([target, residual]).sum(1, dtype=torch.float64).flatten()
        # the sum over ranks of what each writes in its own row is what all of them wrote
        of_ranks = smallest.new_zeros(world_size(), len(smallest), dtype=torch.float64)
        of_ranks[rank()] = smallest
        # one all-reduce; in float64 counts are exact
        packed = [rows, counts.double(), sums, of_ranks.flatten()]
        total = all_reduce_sum(torch.cat(packed)).split([len(part) for part in packed])
        if self.training:
            fired = total[1].to(self.sae.statistics.fired.dtype)
            self.sae.statistics.update(fired, total[0][0].long())
            if len(smallest):
                self.sae.thresholds.update(total[3].view_as(of_ranks).amin(0))
        means = total[2].view(2, -1) / total[0].clamp(min=1)
        return means.to(target.dtype)

    def _smallest(self, code: Code) -> Tensor:
        """Return the smallest values of this rank that thresholds are made of; none without."""
        selection = self.sae.selection
        if not (self.training and self.sae.across_tokens and isinstance(code, SparseCode)):
            return self.variance.new_empty(0)
        assert isinstance(selection, Selection)
        return smallest_values(code, selection.per_feature)

    def _add_auxiliary(
        self,
        objectives: Objectives,
        encoding: Encoding,
        residual: Tensor,
        spread: Tensor,
        mean: Tensor,
    ) -> None:
        auxiliary, selection = self.auxiliary, self.sae.selection
        assert auxiliary is not None
        assert isinstance(selection, Selection)
        chosen = auxiliary.candidates(self.sae.statistics, selection.k, self.dead_after)
        term = auxiliary.term(self.sae, encoding, chosen)
        if auxiliary.normalizer == "residual":
            spread = (residual - mean).square().sum(1)
        objectives.per_sample["auxiliary"] = (residual - term.reconstruction).square().sum(1)
        objectives.count["auxiliary"] = spread
        objectives.weights["auxiliary"] = term.weight
        objectives.logs["helped_share"] = chosen.to(residual.dtype).mean()

    def _add_penalties(self, objectives: Objectives, encoding: Encoding, target: Tensor) -> None:
        activation, code = self.sae.selection, encoding.code
        if isinstance(activation, Activation):
            assert isinstance(code, Tensor)
            objectives.per_sample |= activation.penalties(self.sae, target, encoding.pre_acts, code)
            objectives.weights["sparsity"] = activation.weight_at(self._progress())

    def _progress(self) -> float:
        """Return the share of the run that is over."""
        return self.global_step / self.trainer.estimated_stepping_batches

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep the decoder's gradient from changing lengths; the gradient is clipped after this."""
        self.sae.project_gradient()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take the step, and set the directions' lengths to 1."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.sae.normalize_decoder()

    # ---- what callbacks ask for -----------------------------------------------------------------

    def add_selection(self, selection: Selection) -> None:
        """Add a rule that ``switch_selection`` may change to."""
        self.sae.add_selection(selection)

    def switch_selection(self, number: int) -> None:
        """Go on with rule ``number``, if that is not the one in use."""
        if number != self.sae.active:
            self.sae.switch(number)

    def prepare_calibration(self) -> None:
        """Read the sample of training activations that ``calibrate`` needs; a collective call.

        It is read once and before training, as reading it takes the place of what a buffer holds.
        Every rank keeps its part in main memory.
        """
        sample = getattr(self.datamodule, "sample", None)
        rules = [rule for rule in self.sae.selections if isinstance(rule, Selection)]
        if sample is not None and any(rule.per_feature for rule in rules):
            own = sample(CALIBRATION_TOKENS)["activation"][rank() :: world_size()]
            self._mixed = own.contiguous()

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Set the thresholds that keep k features per token on these batches; a collective call.

        Held-out tokens are often one piece of text, where features must not be forced to the shares
        that they have in training. So with feature choice a sample of the training data gives the
        thresholds of the features relative to one another, and these batches a common factor. Call
        ``prepare_calibration`` before, or these batches give both.
        """
        if not self.sae.across_tokens:
            return
        inputs = (batch["activation"] for batch in batches)
        assert isinstance(self.sae.selection, Selection)
        if self.sae.selection.per_feature and self._mixed is not None:
            of_features = calibrated_thresholds(self.sae, [self._mixed])
            thresholds = scaled_thresholds(self.sae, of_features, inputs)
        else:
            thresholds = calibrated_thresholds(self.sae, inputs)
        self.sae.thresholds.calibrate(thresholds)

    def check_export(self) -> None:
        """Raise ``IncompatibleError`` if ``export`` could not write what training will give."""
        layernorm = getattr(self.datamodule, "normalization", None) == "layernorm"
        check_exportable(self.sae, self.sae.selections[-1], layernorm)

    def export(self, folder: str | Path, metadata: dict[str, Any]) -> None:
        """Write the autoencoder in the layout of SAELens."""
        save_autoencoder(self.sae, folder, metadata)

    # ---- evaluation ---------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics, and return the error over the variance of the sample."""
        x = batch["activation"]
        target = at_least_float32(batch["target"] if self.sae.transcoder else x)
        code = self.sae.encode(x)
        rebuilt = self.sae.decode(code, x)
        measure(self.metrics, self.sae, x, target, code, rebuilt)
        objectives = Objectives(index=batch.get("index"))
        objectives.per_sample["reconstruction"] = (target - rebuilt).square().sum(1)
        if self.denominator != "none":
            variance = self.variance.to(target.dtype)
            objectives.count["reconstruction"] = variance.expand(len(target))
        return objectives

    def make_metrics(self) -> dict[str, Any]:
        """Return the metrics of reconstruction and sparsity."""
        return autoencoder_metrics(self.sae)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and how many directions have a near copy."""
        super().on_validation_epoch_end()
        self.log("val/duplicate_share", duplicate_share(self.sae.W_dec.detach()))

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return how often features are active, and how many are active at once."""
        from framework.sparse_coding.figures import active_features, feature_density

        density = values["density"].cpu()
        known = "zipf_alpha" in values
        return {
            "density": feature_density(density, fit_zipf(density) if known else None),
            "active_features": active_features(values["l0_histogram"].cpu()),
        }

    @torch.no_grad()
    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared error of every token and how many features it uses."""
        x = batch["activation"]
        target = at_least_float32(batch["target"] if self.sae.transcoder else x)
        code = self.sae.encode(x)
        error = target - self.sae.decode(code, x)
        return {"error": error.square().sum(1), "l0": active_per_token(code)}
