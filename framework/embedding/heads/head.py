"""The base of every classification head that trains an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.distributed.collectives import gather, gather_with_grad, shared_generator
from framework.distributed.row_shards import RowShard, own_rows, whole_rows
from framework.embedding.sharding import EXCLUDED, ClassShard, log_sum_exp, split_target
from framework.layers.random_layer import RandomLayer
from framework.utilities.checks import check_at_least, check_interval, check_one_of
from framework.utilities.graph_operation import graph_operation
from framework.utilities.precision import FullPrecision, at_least_float32

INITIAL_STD = 0.01
"""Standard deviation of the weights at the start, that of the published runs."""


class HeadOptions(TypedDict, total=False):
    """Arguments of ``ClassificationHead`` that every head takes."""

    reduction: str
    sample_rate: float


class FilterOptions(HeadOptions, total=False):
    """Arguments of ``ClassificationHead``, for heads whose logits are cosines times something."""

    filter_threshold: float | None


@dataclass(frozen=True)
class Candidates:
    """The classes of this part that a step compares with, and where the rows' own are."""

    weight: Tensor
    bias: Tensor | None
    column: Tensor
    here: Tensor


@dataclass(frozen=True)
class Scores:
    """What a loss is made of: products of rows and classes, as ``products`` returns them.

    ``own`` (B,) is the product with the own class and ``others`` (B, C_r) are those with the
    others; ``cosine`` (B,) is that of the own class and ``norms`` (B,) are those of the embeddings.
    """

    own: Tensor
    others: Tensor
    cosine: Tensor
    norms: Tensor

    def rows(self, own: slice) -> Scores:
        """Return some rows, without gradient."""
        parts = (self.own, self.others, self.cosine, self.norms)
        return Scores(*(part.detach()[own] for part in parts))


class ClassificationHead(RandomLayer, FullPrecision):
    r"""Base of heads that classify embeddings, in training only, and own a vector of each class.

    Called as ``head(x, y)`` it returns the loss and numbers to log. With the logit :math:`t` of the
    own class and :math:`o_j` of the others, a row's loss is
    :math:`\log(e^t + \sum_j e^{o_j}) - t`. Everything is computed in float32 at least.

    The classes lie whole on every rank, or, after ``shard``, in parts, of which each rank holds
    one: then all ranks have to call the head together, each with rows of its own, and each gets
    their loss. Both give the gradient of one process. With ``sample_rate`` r below 1 a training
    step compares with floor(r C) classes only, as many as the global batch has rows at least, its
    own classes among them; which others is a function of the run's seed and the number of training
    forwards so far, equal on any number of ranks. The other classes' gradient is then 0, not
    absent, so that weight decay and momentum move them, as in PartialFC. Evaluation compares with
    all.

    A subclass writes ``products``, and what else differs from softmax of them.

    Class attributes:
        takes_negatives: Whether there is a denominator that further negatives can be added to.
        excluded: Number that takes the place of the own class among the others.

    Attributes:
        weight: The class vectors, (C, d), or those of this rank's part.
        bias: A number of each class, (C,), or None.
        centers: Number of vectors of a class.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        filter_threshold: Cosine above which another class counts as a doubtful label, and its logit
            is 0; None for no filter.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``.
        sample_rate: Part of the classes that a training step compares with, in (0, 1].

    Raises:
        ValueError: an argument is out of its range.

    Paper: An et al., Killing Two Birds with One Stone: Efficient and Robust Training of Face
    Recognition CNNs by Partial FC. arXiv:2203.15565
    """

    bias: nn.Parameter | None
    centers: int = 1
    takes_negatives: ClassVar[bool] = True
    excluded: ClassVar[float] = EXCLUDED
    full_precision: ClassVar[tuple[str, ...] | None] = ()

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        filter_threshold: float | None = None,
        reduction: str = "mean",
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__("classes")
        check_at_least(1, embedding_dim=embedding_dim)
        check_at_least(2, num_classes=num_classes)
        self.filter_threshold = filter_threshold
        self.reduction = reduction
        self.sample_rate = sample_rate
        check_interval("[-1, 1]", filter_threshold=self.filter_threshold)
        check_one_of(("mean", "sum", "none"), reduction=self.reduction)
        check_interval("(0, 1]", sample_rate=self.sample_rate)
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.part = ClassShard(num_classes)
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim))
        self.register_parameter("bias", None)
        self.reset_parameters()

    # ---- what a head writes -------------------------------------------------------------------

    def reset_parameters(self) -> None:
        """Draw the class vectors anew."""
        nn.init.normal_(self.weight, std=INITIAL_STD)

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits without margin, (B, C_r), of embeddings and the classes of a part."""
        raise NotImplementedError(f"{type(self).__name__} defines no products.")

    def own_cosine(self, own: Tensor, norms: Tensor, candidates: Candidates) -> Tensor:
        """Return the cosine of each row and its own class, (B,), from their product."""
        return own / self.lengths(norms)

    def lengths(self, norms: Tensor) -> Tensor | float:
        """Return what a cosine is multiplied by to be a product: a number, or one for each row."""
        raise NotImplementedError(f"{type(self).__name__} defines no lengths.")

    def observe(self, scores: Scores) -> None:
        """Update state from this rank's rows, without gradient; in training, before the loss."""

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the logit of each row's own class, (B,)."""
        return scores.own

    def other_logits(self, scores: Scores) -> Tensor:
        """Return the logits of the other classes, (B, C_r)."""
        return scores.others

    def losses(self, scores: Scores, negatives: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of every row, (B,), and numbers to log, (B,) or scalars."""
        others = log_sum_exp(self.other_logits(scores), self.part)
        if negatives is not None:
            others = torch.logaddexp(others, at_least_float32(negatives))
        # all digits of a small loss, which a difference of two logarithms would not have
        return -F.logsigmoid(self.target_logit(scores) - others), {}

    # ---- what all heads share -----------------------------------------------------------------

    def forward(
        self, x: Tensor, y: Tensor, negatives: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and numbers to log.

        Args:
            x: Embeddings, not normalized, (B, d) float; B may be 0.
            y: Numbers of their classes, (B,) int64.
            negatives: Logarithm of the sum of exponentials of further negatives, scaled as the
                logits are, for the denominator of every row; a scalar.

        Returns:
            The loss, a scalar or with ``reduction='none'`` (B,), and means over this rank's rows by
            name: ``target_cosine``, ``target_angle`` in degrees, ``embedding_norm`` and others.

        Raises:
            ValueError: the shapes do not fit, a label is out of range, or the head has no use for
                further negatives.
        """
        self._check(x, y, negatives)
        with torch.autocast(x.device.type, enabled=False):
            x, labels, own = self.part.gather(at_least_float32(x), y)
            scores = self._scores(x, self._candidates(labels))
            if self.training:
                with torch.no_grad():
                    self.observe(scores.rows(own))
            values, further = self.losses(scores, negatives)
            values = values[own]
            if self.training:
                self._count += 1
            logs = _logs(scores.rows(own))
            for name, value in further.items():
                value = value.detach()
                logs[name] = mean_of(value[own]) if value.ndim else value.clone()
        if self.reduction == "none":
            return values, logs
        # an empty batch gives a zero that still reaches every parameter
        mean = self.reduction == "mean" and len(values)
        return values.mean() if mean else values.sum(), logs

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits without margin, (B, C), scaled as in training.

        Of a head in parts it is a collective call.

        Args:
            x: Embeddings, not normalized, (B, d) float.
        """
        self.part.check_ranks()
        with torch.autocast(x.device.type, enabled=False):
            labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            x, _, own = self.part.gather(at_least_float32(x), labels)
            products = self.products(x, *self._all_classes())
            if not self.part.sharded:
                return products
            sizes = [self.part.of_rank(other).size for other in range(self.part.world_size)]
            return gather_with_grad(products.T.contiguous(), sizes).T[own]

    def shard(self, rank: int, world_size: int) -> None:
        """Keep this rank's part of the classes only; before an optimizer is made.

        Args:
            rank: Number of this rank.
            world_size: Number W of ranks.

        Raises:
            RuntimeError: the head is in parts already.
            ValueError: there are fewer classes than ranks.
        """
        if self.num_classes < world_size:
            raise ValueError(f"{self.num_classes} classes make no {world_size} parts.")
        if self.part.sharded:
            raise RuntimeError(f"The head is already in {self.part.world_size} parts.")
        self.part = ClassShard(self.num_classes, rank, world_size)
        for name, shard in self.own_row_shards.items():
            parameter = getattr(self, name)
            rows = own_rows(parameter.detach(), shard)
            setattr(self, name, nn.Parameter(rows, requires_grad=parameter.requires_grad))

    def sharded_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of which this rank holds a part, by name; none if all are whole."""
        parts = {"weight": self.weight, "bias": self.bias} if self.part.sharded else {}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def own_row_shards(self) -> dict[str, RowShard]:
        """Which rows of the whole parameters this rank holds, by name."""
        each = {"weight": self.centers, "bias": 1}
        return {name: self.part.rows(each[name]) for name in self.sharded_parameters()}

    def full_state_dict(self) -> dict[str, Any]:
        """Return the state of all classes on rank 0, on the CPU where it was in parts.

        A collective call if the head is in parts; on other ranks these are left out.
        ``load_state_dict`` takes the state of all classes on any number of ranks.
        """
        state = self.state_dict()
        for name, shard in self.own_row_shards.items():
            whole = whole_rows(state.pop(name), shard)
            if whole is not None:
                state[name] = whole
        return state

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"embedding_dim={self.embedding_dim}, num_classes={self.num_classes}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # a checkpoint holds all classes, whatever number of ranks it comes from
        for name, shard in self.own_row_shards.items():
            if f"{prefix}{name}" in state_dict:
                state_dict[f"{prefix}{name}"] = own_rows(state_dict[f"{prefix}{name}"], shard)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check(self, x: Tensor, y: Tensor, negatives: Tensor | None) -> None:
        self.part.check_ranks()
        if x.ndim != 2 or x.shape[1] != self.embedding_dim:
            raise ValueError(
                f"x must be embeddings of shape (B, {self.embedding_dim}), got {tuple(x.shape)}."
            )
        if y.shape != x.shape[:1] or y.dtype != torch.int64:
            raise ValueError(
                f"y must be int64 labels of shape ({len(x)},), got {y.dtype} of shape "
                f"{tuple(y.shape)}."
            )
        # numbers on a GPU would have to be waited for
        if y.device.type == "cpu" and len(y) and not torch.compiler.is_compiling():
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"Labels must lie in 0 to {self.num_classes - 1}, got {low} to {high}."
                )
        if negatives is not None and not self.takes_negatives:
            raise ValueError(
                f"{type(self).__name__} has no denominator that further negatives could be added "
                "to; leave out negatives, or take a softmax head, such as CosFaceHead."
            )

    def _all_classes(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of this part in float32 at least."""
        weight = self.part.scaled_gradient(at_least_float32(self.weight))
        if self.bias is None:
            return weight, None
        return weight, self.part.scaled_gradient(at_least_float32(self.bias))

    def _candidates(self, labels: Tensor) -> Candidates:
        weight, bias = self._all_classes()
        column = labels - self.part.start
        if self.training and self.sample_rate < 1:
            present = labels if self.part.sharded else gather(labels)
            size = max(int(self.sample_rate * self.num_classes), len(present), 2)
            size = min(size, self.num_classes)
            kept = _sample_classes(
                self._count, self.seed, self.stream, present, self.num_classes, size
            )
            if self.part.sharded:
                # how many are in this part has to be known here, and a GPU is waited for
                kept = kept[(kept >= self.part.start) & (kept < self.part.start + self.part.size)]
            rows = kept - self.part.start
            weight = weight.unflatten(0, (self.part.size, self.centers))[rows].flatten(0, 1)
            bias = None if bias is None else bias[rows]
            column = torch.searchsorted(kept, labels)
            here = torch.isin(labels, kept)
            return Candidates(weight, bias, torch.where(here, column, 0), here)
        here = (column >= 0) & (column < self.part.size)
        return Candidates(weight, bias, torch.where(here, column, 0), here)

    def _scores(self, x: Tensor, candidates: Candidates) -> Scores:
        products = self.products(x, candidates.weight, candidates.bias)
        own, others = split_target(products, candidates.column, candidates.here, self.excluded)
        own = self.part.sum(own)
        norms = torch.linalg.vector_norm(x, dim=1).clamp(min=1e-12)
        if self.filter_threshold is not None:
            bound = self.filter_threshold * self.lengths(norms)
            bound = bound[:, None] if isinstance(bound, Tensor) and bound.ndim else bound
            others = others.masked_fill(others > bound, 0.0)
        return Scores(own, others, self.own_cosine(own, norms, candidates), norms)


def mean_of(values: Tensor) -> Tensor:
    """Return the mean over rows, 0 where there is none."""
    return values.sum() / max(len(values), 1)


def _logs(scores: Scores) -> dict[str, Tensor]:
    return {
        "target_cosine": mean_of(scores.cosine),
        "target_angle": mean_of(scores.cosine.clamp(-1, 1).acos().rad2deg()),
        "embedding_norm": mean_of(scores.norms),
    }


def _as_many_classes(
    count: Tensor, seed: int, stream: str, present: Tensor, num_classes: int, size: int
) -> Tensor:
    return present.new_empty(size)


@graph_operation(_as_many_classes)
def _sample_classes(
    count: Tensor, seed: int, stream: str, present: Tensor, num_classes: int, size: int
) -> Tensor:
    """Return the numbers of the classes that a step compares with, ascending."""
    device = present.device
    generator = shared_generator(seed, int(count), stream, device)
    order = torch.rand(num_classes, generator=generator, dtype=torch.float32, device=device)
    order.index_fill_(0, present, 2.0)  # by an assignment a GPU would be waited for
    return order.topk(size).indices.sort().values
