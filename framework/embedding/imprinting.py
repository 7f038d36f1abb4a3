"""Classes that are added to a classifier by their mean direction, without training."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum
from framework.utilities.checks import check_interval, check_positive
from framework.utilities.precision import FullPrecision, at_least_float32

UNKNOWN = -1
"""Prediction for an embedding that is of no class."""


class ImprintedClassifier(FullPrecision):
    r"""Classifies embeddings by cosine, among trained classes and those that are added by examples.

    The vector of an added class is the normalized mean of its normalized embeddings. Their sum and
    number are kept, so that more examples may follow, in any order and from any rank. Embeddings
    must come from a network in evaluation mode, as the statistics of a batch of examples are not
    those that the trained classes saw.

    The classes are the trained ones, 0 to C - 1, and then the added ones in their order. A person
    who is enrolled in a gallery of faces is such a class. Nothing has a gradient, and everything
    is computed in float32 at least.

    Paper: Pereira et al., Hyperspherical embedding for novel class classification,
    arXiv:2102.03243; Qi, Brown and Lowe, Low-Shot Learning with Imprinted Weights, CVPR 2018,
    arXiv:1712.07136.

    Args:
        base_weight: Vectors of the trained classes (C, d), of any norm; None for none.
        scale: Number that cosines are multiplied by to be logits.

    Raises:
        ValueError: ``scale`` is not positive, or the weight is no matrix.

    Example:
        >>> import torch
        >>> from framework.embedding import ImprintedClassifier
        >>> classifier = ImprintedClassifier(torch.eye(2), scale=10.0)
        >>> classifier.add_class(torch.tensor([[1.0, 1.0], [1.0, 0.8]]), "between")
        2
        >>> classifier.predict(torch.tensor([[0.9, 0.7], [0.1, 5.0]]))
        tensor([2, 1])
    """

    base_weight: Tensor
    sums: Tensor
    counts: Tensor
    threshold: Tensor

    def __init__(self, base_weight: Tensor | None = None, scale: float = 10.0) -> None:
        super().__init__()
        check_positive(scale=scale)
        base = torch.zeros(0, 0) if base_weight is None else at_least_float32(base_weight.detach())
        if base.ndim != 2:
            raise ValueError(f"base_weight must be (C, d), got {tuple(base.shape)}.")
        self.scale = scale
        self.names: list[str] = []
        """Names of the added classes, in their order."""
        self.register_buffer("base_weight", F.normalize(base))
        self.register_buffer("sums", base.new_zeros(0, base.shape[1]))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64, device=base.device))
        self.register_buffer("threshold", base.new_tensor(-math.inf))

    @property
    def num_base(self) -> int:
        """Number C of trained classes."""
        return len(self.base_weight)

    @property
    def novel_weight(self) -> Tensor:
        """Unit vectors of the K added classes, (K, d); 0 for one that has no example yet."""
        return F.normalize(self.sums)

    @torch.no_grad()
    def add_class(self, embeddings: Tensor, name: str) -> int:
        """Add a class, or more examples of one that was added, and return its number.

        Args:
            embeddings: Embeddings (n, d) of its examples, of any norm; n may be 0, for a rank that
                has none.
            name: Name of the class.

        Raises:
            ValueError: The embeddings have another width.
        """
        x = at_least_float32(embeddings.detach())
        wanted = self._width or (x.shape[1] if x.ndim == 2 else 0)
        if x.ndim != 2 or x.shape[1] != wanted:
            raise ValueError(f"Embeddings must be (n, {wanted or 'd'}), got {tuple(x.shape)}.")
        self._add(F.normalize(x).sum(0), len(x), name)
        return self.num_base + self.names.index(name)

    def remove_class(self, name: str) -> None:
        """Forget a class that was added; those after it move up.

        Raises:
            ValueError: There is none of this name.
        """
        if name not in self.names:
            raise ValueError(f"No class {name!r} was added; there are {self.names}.")
        kept = [number for number, other in enumerate(self.names) if other != name]
        self.names = [self.names[number] for number in kept]
        self.sums, self.counts = self.sums[kept], self.counts[kept]

    @torch.no_grad()
    def merge(self, other: ImprintedClassifier) -> Self:
        """Add the classes, or further examples, of another classifier, by name.

        Raises:
            ValueError: Its embeddings have another width.
        """
        widths = {self._width, other._width} - {0}
        if len(widths) > 1:
            raise ValueError(f"Classifiers of embeddings of sizes {sorted(widths)} do not merge.")
        for name, total, count in zip(other.names, other.sums, other.counts, strict=True):
            self._add(total, count, name)
        return self

    def all_reduce(self) -> Self:
        """Add up what all ranks were given, which then equals one process; a collective call.

        Each rank must have added classes of the same names in the same order, and each example
        must have been given to one rank.
        """
        self.sums = all_reduce_sum(self.sums)
        self.counts = all_reduce_sum(self.counts)
        return self

    @torch.no_grad()
    def logits(self, x: Tensor, among: Literal["joint", "novel"] = "joint") -> Tensor:
        """Return the scaled cosines of embeddings (B, d) and classes.

        Args:
            x: Embeddings of any norm.
            among: Classes ``'joint'``, all of them (B, C + K), or ``'novel'``, the added ones
                (B, K).

        Raises:
            ValueError: There are none of these classes.
        """
        weight = self.novel_weight
        if among == "joint" and self.num_base:
            weight = torch.cat([self.base_weight, weight.to(self.base_weight)])
        if not len(weight):
            raise ValueError("There are no classes to compare with; add one by add_class.")
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            return self.scale * F.normalize(x) @ weight.to(x).T

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled cosines with all classes."""
        return self.logits(x)

    def predict(self, x: Tensor, among: Literal["joint", "novel"] = "joint") -> Tensor:
        """Return the class of each embedding, (B,) int64.

        It is the number among all classes, or among the added ones only, and -1 where the largest
        cosine is not above the threshold that ``calibrate`` found.

        Raises:
            ValueError: There are none of these classes.
        """
        largest, number = self.logits(x, among).max(1)
        # divided as in calibrate: multiplied, the bound could round below the cosine it stands for
        return number.where(largest / self.scale > self.threshold, UNKNOWN)

    @torch.no_grad()
    def calibrate(self, unknown: Tensor, fpr: float) -> float:
        """Set and return the cosine that a known class must exceed.

        At most the share ``fpr`` of the given embeddings, such as those of classes that were held
        out of the training, is then taken for one of the present classes.

        Args:
            unknown: Embeddings (N, d) of none of the classes.
            fpr: Share of them that may be taken for one, in [0, 1).

        Raises:
            ValueError: ``fpr`` is out of its range, or there are no embeddings or classes.
        """
        check_interval("[0, 1)", fpr=fpr)
        if not len(unknown):
            raise ValueError("A threshold needs at least one embedding of an unknown class.")
        cosines = self.logits(unknown) / self.scale
        largest = cosines.max(1).values.sort(descending=True).values
        accepted = math.floor(fpr * len(largest) + 1e-9)
        self.threshold = largest[accepted].to(self.sums)
        return float(self.threshold)

    # ---- state --------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """Return the names of the added classes."""
        return {"names": list(self.names)}

    def set_extra_state(self, state: Any) -> None:
        """Take the names of the added classes."""
        self.names = [str(name) for name in state["names"]]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # whatever number of classes it has
        for name in ("base_weight", "sums", "counts"):
            saved = state_dict.get(f"{prefix}{name}")
            if saved is not None:
                own = getattr(self, name)
                setattr(self, name, own.new_empty(saved.shape, dtype=own.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def _width(self) -> int:
        """Size d of an embedding; 0 where nothing says it yet."""
        return self.sums.shape[1]

    def _add(self, total: Tensor, count: Tensor | int, name: str) -> None:
        if not self._width:
            self.sums = total.new_zeros(len(self.sums), len(total))
        if name not in self.names:
            self.names.append(name)
            self.sums = torch.cat([self.sums, torch.zeros_like(total.to(self.sums))[None]])
            self.counts = torch.cat([self.counts, self.counts.new_zeros(1)])
        row = self.names.index(name)
        self.sums[row] += total.to(self.sums)
        self.counts[row] += count


def imprint(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the normalized means of normalized embeddings, (K, d).

    Args:
        embeddings: Embeddings (N, d) of examples, of any norm.
        labels: Their classes 0 to K - 1, (N,) int64.
        num_classes: Number K of classes.

    Example:
        >>> points = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]])
        >>> imprint(points, torch.zeros(3, dtype=torch.int64), 1)
        tensor([[0.4623, 0.8867]])
    """
    unit = F.normalize(at_least_float32(embeddings))
    return F.normalize(unit.new_zeros(num_classes, unit.shape[1]).index_add(0, labels, unit))
