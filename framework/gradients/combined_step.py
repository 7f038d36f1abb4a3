"""A training step in which a combiner decides how the gradients of the losses become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from framework.distributed.collectives import all_reduce_sum
from framework.gradients.combiner import Combination, GradientCombiner, GradientFacts
from framework.gradients.inject_gradients import inject_gradients
from framework.gradients.per_term import (
    Gradients,
    feature_products,
    global_gradients,
    gradients_of,
)
from framework.objectives.errors import IncompatibleError
from framework.utilities.devices import to_device

Guide = Callable[[], Tensor | tuple[Tensor, Tensor | None]]

SEPARATION = 1e-3
"""Largest relative gap between the gradient through the features and the whole one."""


@dataclass
class _Terms:
    """The terms of a step and what they may depend on."""

    names: tuple[str, ...]
    values: list[Tensor]
    weights: Tensor
    total: Tensor
    features: Tensor | None
    shared: list[Parameter]
    others: list[Parameter]

    def weighted(self, rows: Sequence[Gradients]) -> Gradients:
        """Return the sum of the terms' gradients, each with its weight in the plain sum."""
        return _combined(self.weights.tolist(), rows)

    def factors(self, factors: Sequence[float]) -> Tensor:
        """Return by what the gradients without weights are multiplied."""
        return torch.tensor(factors, dtype=torch.float64) * self.weights


class CombinedStep:
    """Turns the losses of a step into a value whose backward pass gives the combined gradient.

    It serves any training loop: keep one for the run, call it with named losses in every step, and
    send what it returns backward. The shared parameters get ``factors @ gradients``, as the
    combiner decides, all others the gradient of the plain sum.

    In the exact scope there is one backward pass per loss and none of the sum; in the scope of the
    representation one pass per loss down to the features and one below them. Steps between two
    decisions take two passes, of which that of the plain sum ends above the shared parameters.
    Under DDP the losses are means over batches of equal size, or are scaled accordingly.

    Args:
        combiner: Rule that weighs the gradients.

    Example:
        >>> from framework.gradients.exact_pareto import EPO
        >>> x = Parameter(torch.tensor([1.0, 2.0]))
        >>> combined = CombinedStep(EPO(preference=[1.0, 1.0]))
        >>> combined({"a": x[0] ** 2, "b": x[1] ** 2}, [x]).backward()
        >>> x.grad
        tensor([0., 8.])
    """

    def __init__(self, combiner: GradientCombiner) -> None:
        self.combiner = combiner
        self.logs: dict[str, float] = {}
        """What is known of the latest decision, by name."""
        self._latest: dict[str, float] = {}
        self._decided_at: int | None = None
        self._next_step = 0
        self._checked = False
        self._separated: set[str] = set()

    def __call__(
        self,
        losses: Mapping[str, Tensor],
        parameters: Iterable[Parameter],
        shared: Iterable[Parameter] | None = None,
        *,
        weights: Mapping[str, float | Tensor] | None = None,
        features: Tensor | None = None,
        step: int | None = None,
        guide: Guide | None = None,
    ) -> Tensor:
        """Return the weighted sum of the losses, with the combined gradient.

        Args:
            losses: Scalar losses by name.
            parameters: All parameters that are trained; one that is left out gets no gradient.
            shared: Parameters whose gradient is combined; default all.
            weights: Weights of the losses in the sum, by name; a missing name counts 1.
            features: Representation (B, D) that all losses share, for the scope
                ``representation``.
            step: Number of optimizer steps before this one; default the number of calls.
            guide: Function that returns the loss on held-out data, or that loss and its features,
                for combiners that are guided. It is called where a decision is due.

        Raises:
            ValueError: No losses, losses without names, or one that is no scalar.
            IncompatibleError: Other terms than the combiner asks for, a weight that is learned,
                complex parameters, reentrant activation checkpoints, or the scope of the
                representation where there is no such thing.
        """
        _check_losses(losses)
        weights = weights or {}
        parameters = [p for p in parameters if p.requires_grad]
        shared = parameters if shared is None else [p for p in shared if p.requires_grad]
        step = self._next_step if step is None else step
        self._next_step = step + 1
        parts = [weights[n] * loss if n in weights else loss for n, loss in losses.items()]
        total = reduce(torch.add, parts)
        self._check(total, tuple(losses), weights, shared)
        numbers = [float(weights.get(name, 1.0)) for name in losses]
        known = {id(parameter) for parameter in shared}
        terms = _Terms(
            tuple(losses),
            list(losses.values()),
            torch.tensor(numbers, dtype=torch.float64),
            total,
            features,
            shared,
            [parameter for parameter in parameters if id(parameter) not in known],
        )
        names = {name for name, weight in zip(terms.names, numbers, strict=True) if weight != 0}
        # an optimizer may evaluate a step several times, which must be one function
        rests = step % self.combiner.every_n_steps or step == self._decided_at
        decides = not rests or names != set(self._latest)
        objective, there = None, None
        if decides and guide is not None and self.combiner.guided:
            found = guide()
            objective, there = found if isinstance(found, tuple) else (found, None)
        # what is left is linear algebra, which autocast would round to half precision
        with torch.autocast(total.device.type, enabled=False):
            if not decides:
                for_shared, for_others = self._as_before(terms)
            elif self.combiner.scope == "exact":
                for_shared, for_others = self._exact(terms, step, objective)
            else:
                there = None if objective is None else _features(there)
                for_shared, for_others = self._at_the_features(terms, step, objective, there)
        if decides:
            self._decided_at = step
        pairs = zip([*terms.shared, *terms.others], [*for_shared, *for_others], strict=True)
        reached = [(p, g) for p, g in pairs if g is not None]
        return inject_gradients(total, [p for p, _ in reached], [g for _, g in reached])

    def _check(
        self,
        total: Tensor,
        names: Sequence[str],
        weights: Mapping[str, float | Tensor],
        shared: Sequence[Parameter],
    ) -> None:
        """Refuse what would be trained wrongly without a word."""
        name = type(self.combiner).__name__
        for term, weight in weights.items():
            if isinstance(weight, Tensor) and weight.requires_grad:
                raise IncompatibleError(
                    f"{name} weighs terms itself, so that the weight of {term!r} cannot be learned."
                )
        if self._checked:
            return
        self.combiner.check_terms(names)
        if any(parameter.is_complex() for parameter in shared):
            raise IncompatibleError(f"{name} compares real gradients; a parameter is complex.")
        if _has_reentrant_checkpoint(total):
            raise IncompatibleError(
                f"{name} asks for the gradient of each term, which torch.utils.checkpoint gives "
                "with use_reentrant=False only."
            )
        self._checked = True

    def _as_before(self, terms: _Terms) -> tuple[Gradients, Gradients]:
        factors = [self._latest.get(name, 0.0) for name in terms.names]
        parts = zip(terms.factors(factors).tolist(), terms.values, strict=True)
        value = torch.stack([factor * term for factor, term in parts]).sum()
        return gradients_of(value, terms.shared), gradients_of(terms.total, terms.others)

    def _exact(self, terms: _Terms, step: int, guide: Tensor | None) -> tuple[Gradients, Gradients]:
        count, size = len(terms.values), len(terms.shared)
        for_others: Gradients = [None] * len(terms.others)

        def rows() -> Iterator[Gradients]:
            for weight, term in zip(terms.weights.tolist(), terms.values, strict=True):
                found = gradients_of(term, [*terms.shared, *terms.others])
                _accumulate(for_others, weight, found[size:])
                yield found[:size]
            if guide is not None:
                yield gradients_of(guide, terms.shared)

        values = terms.values if guide is None else [*terms.values, guide]
        matrix, gram, losses, reached = global_gradients(rows(), values, terms.shared)
        guided = guide is not None
        factors = self._decide(
            terms,
            step,
            gram[:count, :count],
            losses[:count],
            gram[:count, count] if guided else None,
            float(losses[count]) if guided else None,
        )
        combined = (
            to_device(terms.factors(factors).to(matrix.dtype), matrix.device) @ matrix[:count]
        )
        parts = combined.split([parameter.numel() for parameter in terms.shared])
        # an optimizer would decay what no term depends on
        depended = reached[:count].any(0).tolist()
        for_shared: Gradients = [
            part.view_as(parameter).to(parameter.dtype) if some else None
            for part, parameter, some in zip(parts, terms.shared, depended, strict=True)
        ]
        return for_shared, for_others

    def _at_the_features(
        self, terms: _Terms, step: int, guide: Tensor | None, there: Tensor | None
    ) -> tuple[Gradients, Gradients]:
        features = _features(terms.features)
        found = [gradients_of(term, [features, *terms.others]) for term in terms.values]
        self._check_separation(terms, features, [row[:1] for row in found])
        rows, values = [row[0] for row in found], list(terms.values)
        shift = None
        if guide is not None and there is not None:
            values.append(guide)
            (shift,) = gradients_of(guide, [there])
            shift = torch.zeros_like(there) if shift is None else shift
        gram, products, losses = feature_products(rows, shift, values, features)
        count = len(terms.values)
        guide_loss = float(losses[count]) if shift is not None else None
        factors = self._decide(terms, step, gram, losses[:count], products, guide_loss)
        (combined,) = _combined(terms.factors(factors).tolist(), [[row] for row in rows])
        for_shared = _pulled_back(features, combined, terms.shared)
        return for_shared, terms.weighted([row[1:] for row in found])

    def _decide(
        self,
        terms: _Terms,
        step: int,
        gram: Tensor,
        losses: Tensor,
        guide: Tensor | None,
        guide_loss: float | None,
    ) -> list[float]:
        """Return by what each weighted term's gradient is multiplied."""
        weights = terms.weights
        gram = gram * weights[:, None] * weights
        # a term that does not pull is no objective: it would take weight from the others
        active = (gram.diagonal() != 0).nonzero().flatten()
        factors = torch.zeros(len(weights), dtype=torch.float64)
        names = tuple(terms.names[place] for place in active.tolist())
        if not names or not gram.isfinite().all():
            # the loss is NaN too, which ends the run
            self._latest, self.logs = {}, {"preference/finite": 0.0} if names else {}
            return [1.0] * len(weights)
        facts = GradientFacts(
            names,
            gram[active][:, active],
            (losses * weights)[active],
            step,
            None if guide is None else (guide * weights)[active],
            guide_loss,
        )
        answer = self.combiner.combination(facts)
        factors[active] = answer.factors
        known = zip(terms.names, weights.tolist(), factors.tolist(), strict=True)
        self._latest = {name: factor for name, weight, factor in known if weight != 0}
        self.logs = _logs(facts, answer) | {
            f"preference/factor/{name}": factor for name, factor in self._latest.items()
        }
        return factors.tolist()

    def _check_separation(self, terms: _Terms, features: Tensor, rows: Sequence[Gradients]) -> None:
        """Compare the gradient through the features with the whole one, once for each term."""
        if self._separated >= set(terms.names):
            return
        (plain,) = terms.weighted(rows)
        through = _pulled_back(features, plain, terms.shared)
        whole = gradients_of(terms.total, terms.shared)
        gap, size = features.new_zeros(2, dtype=torch.float64)
        for a, b in zip(through, whole, strict=True):
            like = a if a is not None else b
            if like is not None:
                left, right = (torch.zeros_like(like) if x is None else x for x in (a, b))
                gap += (left - right).double().square().sum()
                size += right.double().square().sum()
        gap, size = all_reduce_sum(torch.stack([gap, size]))
        if not (gap + size).isfinite():
            return  # the loss is not finite either, which ends the run
        if gap > SEPARATION**2 * size:
            raise IncompatibleError(
                "scope='representation' needs terms that reach the shared parameters through "
                "`features` alone, and these reach them by another way too: use scope='exact'."
            )
        self._separated |= set(terms.names)

    def state_dict(self) -> dict[str, Any]:
        """Return the latest decision and the combiner's own state."""
        return {
            "latest": dict(self._latest),
            "logs": dict(self.logs),
            "combiner": self.combiner.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._latest, self.logs = dict(state_dict["latest"]), dict(state_dict["logs"])
        self.combiner.load_state_dict(state_dict["combiner"])


def _features(features: Tensor | None) -> Tensor:
    if features is None or not features.requires_grad:
        raise IncompatibleError(
            "scope='representation' compares gradients at `features`, which this step does "
            "not have: use scope='exact'."
        )
    return features


def _check_losses(losses: Mapping[str, Tensor]) -> None:
    if not isinstance(losses, Mapping) or not losses:
        found = "none" if not losses else f"a {type(losses).__name__}"
        raise ValueError(f"losses must be a mapping of names to scalar losses, got {found}.")
    for name, loss in losses.items():
        if not isinstance(loss, Tensor):
            raise ValueError(f"The loss {name!r} must be a tensor, got a {type(loss).__name__}.")
        if loss.numel() != 1:
            raise ValueError(
                f"The loss {name!r} must be a scalar, got the shape {tuple(loss.shape)}: reduce "
                "it, by its mean for example."
            )


def _has_reentrant_checkpoint(value: Tensor) -> bool:
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if type(node).__name__ == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        waiting.extend(above for above, _ in node.next_functions)
    return False


def _combined(factors: Sequence[float], rows: Sequence[Gradients]) -> Gradients:
    """Return the sum of factor times gradient, per parameter, None where there is no gradient."""
    sums: Gradients = [None] * len(rows[0])
    for factor, row in zip(factors, rows, strict=True):
        _accumulate(sums, factor, row)
    return sums


def _accumulate(sums: Gradients, factor: float, row: Gradients) -> None:
    """Add factor times gradient to each sum."""
    for place, gradient in enumerate(row):
        if gradient is not None:
            # discriminators can be larger than all else: no pass over them that is not needed
            part = gradient if factor == 1 else factor * gradient
            total = sums[place]
            sums[place] = part if total is None else total + part


def _pulled_back(
    features: Tensor, gradient: Tensor | None, parameters: Sequence[Parameter]
) -> Gradients:
    """Return the gradients of the parameters for that of the features; the graph is kept."""
    if gradient is None:
        return [None] * len(parameters)
    found = torch.autograd.grad(
        features, parameters, gradient, retain_graph=True, allow_unused=True
    )
    return list(found)


def _logs(facts: GradientFacts, answer: Combination) -> dict[str, float]:
    names, gram = facts.names, facts.gram
    logs = {f"preference/weight/{n}": float(w) for n, w in zip(names, answer.weights, strict=True)}
    lengths = gram.diagonal().sqrt()
    for i, first in enumerate(names):
        for j, second in enumerate(names[i:], start=i):
            logs[f"preference/gram/{first}/{second}"] = float(gram[i, j])
            if j > i:
                cosine = float(gram[i, j] / (lengths[i] * lengths[j]))
                logs[f"preference/cosine/{first}/{second}"] = cosine
    if facts.guide is not None:
        for name, product in zip(names, facts.guide.tolist(), strict=True):
            logs[f"preference/guide/{name}"] = product
    if facts.guide_loss is not None:
        logs["preference/guide_loss"] = facts.guide_loss
    logs |= {f"preference/{name}": value for name, value in answer.logs.items()}
    return logs
