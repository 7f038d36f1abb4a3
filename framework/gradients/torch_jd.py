"""Any of TorchJD's weighted aggregators, from inner products alone."""

from __future__ import annotations

import copy
import inspect
import warnings
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.gradients.combiner import Combination, GradientCombiner, GradientFacts, Scope
from framework.utilities.checks import check_positive
from framework.utilities.nearest_names import nearest
from framework.utilities.packages import require_package
from framework.utilities.randomness import global_seed, seeded

FROM_ROWS = ("Constant", "Mean", "NashMTL", "Random", "Sum")
"""Aggregators that are given gradients, but look at their number or inner products only."""


class TorchJD(GradientCombiner):
    """Weighs the gradients of T terms as an aggregator of TorchJD does.

    The library knows the published ways of combining conflicting gradients: ``UPGrad``, ``MGDA``,
    ``CAGrad``, ``PCGrad``, ``NashMTL``, ``AlignedMTL``, ``IMTLG`` and others. Here they get the
    inner products of the gradients of the global batch, so that the step is the same on any number
    of ranks. Random ones draw from a generator of their own, which depends on the run's seed and
    the step; the state of those that remember past steps is in the checkpoint. Aggregators that
    are no weighting of the terms (``ConFIG``, ``GradDrop``, ``TrimmedMean``), or look at single
    entries of the gradients (``ExcessMTL``), are refused.

    The weights are TorchJD's own. Those of ``UPGrad``, ``MGDA``, ``CAGrad`` and most others are
    about 1/T each, so that the step is T times shorter than that of the plain sum; ``scale`` or the
    learning rate makes up for it. A single term weighs 1 whatever the aggregator. Where a term's
    gradient is NaN or infinite, or all are 0, the aggregator is not asked and the step is the plain
    sum's, as it is where the aggregator's weights are not finite.

    Library: TorchJD, https://torchjd.org; Quinton and Rey, *Jacobian Descent for Multi-Objective
    Optimization*, arXiv:2406.16232. It names the paper of every aggregator.

    Args:
        aggregator: Name of a class of ``torchjd.aggregation``.
        options: Arguments of the aggregator, by name; a list of numbers stands for a tensor.
        scale: Factor of the combined gradient.
        scope: Gradients that are compared, as in ``GradientCombiner``.
        every_n_steps: Steps between two decisions.

    Raises:
        ImportError: TorchJD, or what the aggregator needs of its extras, is not installed.
        ValueError: An unknown or unsuited aggregator, options it does not take, or ``scale`` not
            above 0; in a step: another number of terms than the aggregator is made for.

    Example:
        >>> import torch
        >>> from framework.gradients import GradientFacts, TorchJD
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
        >>> facts = GradientFacts(("a", "b"), gradients @ gradients.T, torch.ones(2), step=0)
        >>> TorchJD("UPGrad").combination(facts).weights
        tensor([0.9999, 0.7500], dtype=torch.float64)
    """

    def __init__(
        self,
        aggregator: str = "UPGrad",
        options: dict[str, Any] | None = None,
        scale: float = 1.0,
        scope: Scope = "exact",
        every_n_steps: int = 1,
    ) -> None:
        super().__init__(scope, every_n_steps)
        check_positive(scale=scale)
        self.scale = scale
        self._name = aggregator
        self._aggregator = _build(aggregator, options or {})
        self._fresh = _values(self._aggregator)
        self._terms = 0

    def combination(self, facts: GradientFacts) -> Combination:
        """Return the aggregator's weights, and in the logs ``fallback``: 1 where they are not its.

        Raises:
            ValueError: The aggregator refuses the terms, or finds no weights.
        """
        terms = len(facts.names)
        if terms == 1:
            return Combination(torch.ones(1, dtype=torch.float64))
        plain = Combination(torch.ones(terms, dtype=torch.float64), logs={"fallback": 1.0})
        if not facts.gram.isfinite().all() or not facts.gram.any():
            return plain
        self._terms = terms
        try:
            weights = self._weights(facts.gram.detach().cpu().double(), facts.step)
        except ValueError as error:
            raise ValueError(
                f"TorchJD: {self._name} cannot weigh the terms {', '.join(facts.names)}: {error}"
            ) from error
        if not weights.isfinite().all():
            return plain
        return Combination(weights, self.scale, {"fallback": 0.0})

    def state_dict(self) -> dict[str, Any]:
        """Return what the aggregator remembers of past steps: tensors and numbers."""
        values = {
            name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
            for name, value in _values(self._aggregator).items()
            if not _same(value, self._fresh.get(name))
        }
        return {"terms": self._terms, "values": values} if values else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        if state_dict:
            # what an aggregator builds at its first call, and no file can hold, it builds here
            self._terms = int(state_dict["terms"])
            self._weights(torch.eye(self._terms, dtype=torch.float64), step=0)
        saved = self._fresh | state_dict.get("values", {})
        modules = dict(self._aggregator.named_modules())
        for name, now in _values(self._aggregator).items():
            path, _, attribute = name.rpartition(".")
            value = copy.deepcopy(saved.get(name))
            if isinstance(now, np.ndarray) and isinstance(value, Tensor):
                value = value.numpy()
            setattr(modules[path], attribute, value)

    def _weights(self, gram: Tensor, step: int) -> Tensor:
        aggregator = self._aggregator
        with seeded(global_seed(), step, "torchjd"), warnings.catch_warnings(), torch.no_grad():
            # of cvxpy under NashMTL: that it could be quicker or more exact, or divides by 0
            for category in (UserWarning, RuntimeWarning):
                warnings.simplefilter("ignore", category)
            if hasattr(aggregator, "gramian_weighting"):
                weights = aggregator.gramian_weighting(gram)
            else:
                # rows whose inner products are the gradients'
                eigenvalues, vectors = torch.linalg.eigh(gram)
                weights = aggregator.weighting(vectors * eigenvalues.clamp(min=0).sqrt())
        return weights.double()


def _build(name: str, options: dict[str, Any]) -> Any:
    """Return the aggregator, or refuse it."""
    require_package("torchjd", extra="torchjd", purpose="TorchJD")
    library = import_module("torchjd.aggregation")
    weighted = library.WeightedAggregator
    bases = (library.Aggregator, weighted, library.GramianWeightedAggregator)
    kinds = {
        kind.__name__: kind
        for kind in (getattr(library, exported) for exported in library.__all__)
        if isinstance(kind, type) and issubclass(kind, library.Aggregator) and kind not in bases
    }
    if name not in kinds:
        raise ValueError(f"TorchJD has no aggregator {name!r}{nearest(name, kinds)}.")
    kind = kinds[name]
    if not issubclass(kind, weighted):
        raise ValueError(f"TorchJD: {name} is no weighting of the terms' gradients.")
    if not issubclass(kind, library.GramianWeightedAggregator) and name not in FROM_ROWS:
        raise ValueError(
            f"TorchJD: {name} looks at single entries of the gradients, of which only the inner "
            "products are known."
        )
    try:
        tensors = {
            key: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
            for key, value in options.items()
        }
        inspect.signature(kind).bind(**tensors)
        return kind(**tensors)
    except (TypeError, ValueError) as error:
        takes = ", ".join(inspect.signature(kind).parameters) or "no options"
        raise ValueError(f"TorchJD: {name} takes {takes}: {error}") from error
    except ImportError as error:
        raise ModuleNotFoundError(
            f"TorchJD: {name} needs more than is installed: pip install 'trimtab[torchjd]'."
        ) from error


def _values(aggregator: Any) -> dict[str, Any]:
    """Return copies of all numbers, arrays and tensors that the aggregator holds, by path."""
    return {
        f"{path}.{name}": copy.deepcopy(value)
        for path, module in aggregator.named_modules()
        for name, value in {**vars(module), **module._buffers}.items()
        if value is None or isinstance(value, (Tensor, np.ndarray, int, float))
    }


def _same(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return False
    if isinstance(value, np.ndarray):
        return np.array_equal(value, other)
    return torch.equal(value, other) if isinstance(value, Tensor) else value == other
