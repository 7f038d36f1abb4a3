"""A training step in which a combiner decides how the gradients of the terms become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from framework.compatibility import IncompatibleError
from framework.distributed import all_reduce_sum
from framework.gradients.combiner import Combination, GradientCombiner, GradientFacts
from framework.gradients.given import with_gradients
from framework.gradients.per_term import (
    Gradients,
    feature_products,
    global_rows,
    gradients_of,
    gram_matrix,
)
from framework.objectives import Objectives
from framework.reduction import Reduced, reduce_objectives

SEPARATION = 1e-3
"""Largest relative gap between the gradient through the features and the whole one."""


@dataclass
class _Step:
    """The terms of a step and what they may depend on."""

    names: tuple[str, ...]
    terms: list[Tensor]
    weights: Tensor
    total: Tensor
    features: Tensor | None
    shared: list[Parameter]
    others: list[Parameter]

    def weighted(self, rows: Sequence[Gradients]) -> Gradients:
        """Return the sum of the terms' gradients, each with its weight in the plain sum."""
        return _combined(self.weights.tolist(), rows)


class CombinedStep:
    """Turns the terms of a step into a value whose backward pass gives the combined gradient.

    The shared parameters get ``scale * weights @ gradients``, all others the gradient of the plain
    sum. In the exact scope there is one backward pass per term and none of the sum; in the scope of
    the representation one pass per term down to the features and one below them. Steps between two
    decisions take two passes, of which that of the plain sum ends above the shared parameters.

    Args:
        combiner: what decides.
    """

    def __init__(self, combiner: GradientCombiner) -> None:
        self.combiner = combiner
        self.logs: dict[str, float] = {}
        """What is known of the latest step, by name."""
        self._latest: dict[str, float] = {}
        self._separated = False

    def __call__(
        self,
        reduced: Reduced,
        objectives: Objectives,
        parameters: Sequence[Parameter],
        shared: Sequence[Parameter],
        step: int,
        guide: Callable[[], Objectives] | None = None,
    ) -> Tensor:
        """Return the plain sum, with the combined gradient.

        Args:
            reduced: terms and plain sum of this step.
            objectives: what they were made of.
            parameters: all that are trained.
            shared: those whose gradient is combined.
            step: optimizer steps taken before this one.
            guide: returns the objectives of a held-out batch, in evaluation mode.

        Raises:
            IncompatibleError: the scope of the representation, where there is no such thing.
        """
        weights = [float(objectives.weights.get(name, 1.0)) for name in reduced.terms]
        known = {id(parameter) for parameter in shared}
        this = _Step(
            tuple(reduced.terms),
            list(reduced.terms.values()),
            torch.tensor(weights, dtype=torch.float64),
            reduced.total,
            objectives.features,
            list(shared),
            [parameter for parameter in parameters if id(parameter) not in known],
        )
        names = {name for name, weight in zip(this.names, weights, strict=True) if weight != 0}
        if step % self.combiner.every_n_steps and names == set(self._latest):
            below, above = self._as_before(this)
        elif self.combiner.scope == "exact":
            below, above = self._exact(this, step, guide)
        else:
            below, above = self._at_the_features(this, step, guide)
        pairs = zip([*this.shared, *this.others], [*below, *above], strict=True)
        reached = [(p, g) for p, g in pairs if g is not None]
        return with_gradients(reduced.total, [p for p, _ in reached], [g for _, g in reached])

    def _as_before(self, this: _Step) -> tuple[Gradients, Gradients]:
        factors = [self._latest.get(name, 0.0) for name in this.names]
        self.logs = _weight_logs(dict(zip(this.names, factors, strict=True)))
        value = torch.stack(this.terms) @ (self._factors(this, factors)).to(this.terms[0])
        return gradients_of(value, this.shared), gradients_of(this.total, this.others)

    def _exact(
        self, this: _Step, step: int, guide: Callable[[], Objectives] | None
    ) -> tuple[Gradients, Gradients]:
        found = [gradients_of(term, [*this.shared, *this.others]) for term in this.terms]
        size = len(this.shared)
        rows, values = [row[:size] for row in found], list(this.terms)
        if guide is not None and self.combiner.guided:
            objective = reduce_objectives(guide()).total
            rows.append(gradients_of(objective, this.shared))
            values.append(objective)
        matrix, means = global_rows(rows, values, this.shared)
        count = len(this.terms)
        gram = gram_matrix(matrix)
        losses = means.double().cpu()
        guided = len(rows) > count
        factors = self._decide(
            this,
            step,
            gram[:count, :count],
            losses[:count],
            gram[:count, count] if guided else None,
            float(losses[count]) if guided else None,
        )
        combined = self._factors(this, factors).to(matrix) @ matrix[:count]
        below: Gradients = []
        start = 0
        for position, parameter in enumerate(this.shared):
            end = start + parameter.numel()
            part = combined[start:end].view_as(parameter).to(parameter.dtype)
            start = end
            # an optimizer would decay what no term depends on
            idle = all(row[position] is None for row in rows[:count])
            below.append(None if idle else part)
        return below, this.weighted([row[size:] for row in found])

    def _at_the_features(
        self, this: _Step, step: int, guide: Callable[[], Objectives] | None
    ) -> tuple[Gradients, Gradients]:
        features = _features(this.features)
        found = [gradients_of(term, [features, *this.others]) for term in this.terms]
        self._check_separation(this, features, [row[:1] for row in found])
        rows, values = [row[0] for row in found], list(this.terms)
        shift = None
        if guide is not None and self.combiner.guided:
            held_out = guide()
            objective = reduce_objectives(held_out).total
            values.append(objective)
            there = _features(held_out.features)
            (shift,) = gradients_of(objective, [there])
            shift = torch.zeros_like(there) if shift is None else shift
        gram, products, losses = feature_products(rows, shift, values, features)
        count = len(this.terms)
        guide_loss = float(losses[count]) if shift is not None else None
        factors = self._decide(this, step, gram, losses[:count], products, guide_loss)
        (combined,) = _combined(self._factors(this, factors).tolist(), [[row] for row in rows])
        below = _pulled_back(features, combined, this.shared)
        return below, this.weighted([row[1:] for row in found])

    def _decide(
        self,
        this: _Step,
        step: int,
        gram: Tensor,
        losses: Tensor,
        guide: Tensor | None,
        guide_loss: float | None,
    ) -> list[float]:
        """Return by what each weighted term's gradient is multiplied."""
        weights = this.weights
        gram = gram * weights[:, None] * weights
        # a term that does not pull is no objective: it would take weight from the others
        active = (gram.diagonal() != 0).nonzero().flatten()
        factors = torch.zeros(len(weights), dtype=torch.float64)
        names = tuple(this.names[place] for place in active.tolist())
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
        factors[active] = answer.scale * answer.weights
        known = zip(this.names, weights.tolist(), factors.tolist(), strict=True)
        self._latest = {name: factor for name, weight, factor in known if weight != 0}
        self.logs = _logs(facts, answer)
        return factors.tolist()

    @staticmethod
    def _factors(this: _Step, factors: Sequence[float]) -> Tensor:
        return torch.tensor(factors, dtype=torch.float64) * this.weights

    def _check_separation(self, this: _Step, features: Tensor, rows: Sequence[Gradients]) -> None:
        """Compare, once, the gradient through the features with the whole one."""
        if self._separated:
            return
        (plain,) = this.weighted(rows)
        through = _pulled_back(features, plain, this.shared)
        whole = gradients_of(this.total, this.shared)
        gap, size = features.new_zeros(2, dtype=torch.float64)
        for a, b in zip(through, whole, strict=True):
            like = a if a is not None else b
            if like is not None:
                left, right = (torch.zeros_like(like) if x is None else x for x in (a, b))
                gap += (left - right).double().square().sum()
                size += right.double().square().sum()
        gap, size = all_reduce_sum(torch.stack([gap, size]))
        if gap > SEPARATION**2 * size:
            raise IncompatibleError(
                "scope='representation' needs terms that reach the shared parameters through "
                "`features` alone, and these reach them by another way too: use scope='exact'."
            )
        self._separated = True

    def state_dict(self) -> dict[str, Any]:
        """Return the latest decision and the combiner's own state."""
        return {"latest": dict(self._latest), "combiner": self.combiner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._latest = dict(state_dict["latest"])
        self.combiner.load_state_dict(state_dict["combiner"])


def _features(features: Tensor | None) -> Tensor:
    if features is None or not features.requires_grad:
        raise IncompatibleError(
            "scope='representation' compares gradients at `features`, which these objectives do "
            "not have: use scope='exact'."
        )
    return features


def _combined(factors: Sequence[float], rows: Sequence[Gradients]) -> Gradients:
    """Return the sum of factor times gradient, per parameter, None where there is no gradient."""
    sums: Gradients = []
    for column in zip(*rows, strict=True):
        total = None
        for factor, gradient in zip(factors, column, strict=True):
            if gradient is not None:
                part = factor * gradient
                total = part if total is None else total + part
        sums.append(total)
    return sums


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


def _weight_logs(weights: dict[str, float]) -> dict[str, float]:
    return {f"preference/factor/{name}": value for name, value in weights.items()}


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
