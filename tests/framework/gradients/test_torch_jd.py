"""TorchJD's aggregators from inner products: all of them, their draws and what they remember."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchjd.aggregation
from torch import Tensor
from torchjd.aggregation import Aggregator, GramianWeightedAggregator, WeightedAggregator

from framework.gradients import GradientFacts, TorchJD
from framework.utilities.randomness import global_seed, seeded

OPTIONS: dict[str, dict[str, Any]] = {
    "AlignedMTL": {"pref_vector": [1.0, 2.0, 1.0]},
    "CAGrad": {"c": 0.5},
    "Constant": {"weights": [0.2, 1.0, 3.0]},
    "DualProj": {},
    "FairGrad": {"alpha": 1.0},
    "GradVac": {"beta": 0.3},
    "IMTLG": {},
    "Krum": {"n_byzantine": 0, "n_selected": 2},
    "MGDA": {},
    "Mean": {},
    "NashMTL": {"n_tasks": 3},
    "PCD": {"tau": 0.3},
    "PCGrad": {},
    "Random": {},
    "Sum": {},
    "UPGrad": {},
}
REFUSED = {
    "ConFIG": "no weighting",
    "ExcessMTL": "single entries",
    "GradDrop": "no weighting",
    "TrimmedMean": "no weighting",
}
REMEMBER = {"GradVac", "NashMTL", "PCD"}
DRAW = {"GradVac", "PCGrad", "Random"}
each = pytest.mark.parametrize("name", OPTIONS)


def gradients(terms: int = 3, seed: int = 0) -> Tensor:
    """Return gradients most of which are opposed to one another."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(terms, 7, generator=generator, dtype=torch.float64)
    return rows - 0.9 * rows.mean(0)


def facts(rows: Tensor, step: int = 3) -> GradientFacts:
    names = tuple("abcdef"[: len(rows)])
    return GradientFacts(names, rows @ rows.T, torch.ones(len(rows)).double(), step)


@pytest.fixture
def seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    return monkeypatch


def tensors(options: dict[str, Any]) -> dict[str, Any]:
    return {
        key: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
        for key, value in options.items()
    }


# ---- the same as TorchJD itself -----------------------------------------------------------------


@each
def test_the_direction_is_that_of_the_aggregator(name: str) -> None:
    """In several steps, of which those that remember see the earlier ones."""
    combiner = TorchJD(name, OPTIONS[name])
    aggregator = getattr(torchjd.aggregation, name)(**tensors(OPTIONS[name]))
    # NashMTL solves to 1e-3 and is a function of the last bits
    tolerance = 1e-4 if name == "NashMTL" else 1e-9
    for step in range(4):
        rows = gradients(seed=step)
        found = combiner.combination(facts(rows, step))
        with seeded(global_seed(), step, "torchjd"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = aggregator(rows)
        torch.testing.assert_close(found.weights @ rows, expected, rtol=tolerance, atol=tolerance)
        assert found.weights.dtype == torch.float64
        assert not found.weights.requires_grad
        assert (found.scale, found.logs) == (1.0, {"fallback": 0.0})


def test_every_aggregator_of_the_library_is_classified_here() -> None:
    exported = (getattr(torchjd.aggregation, name) for name in torchjd.aggregation.__all__)
    bases = (Aggregator, GramianWeightedAggregator, WeightedAggregator)
    kinds = {kind.__name__ for kind in exported if issubclass(kind, Aggregator)}
    assert kinds - {base.__name__ for base in bases} == set(OPTIONS) | set(REFUSED)


@each
def test_only_inner_products_count(name: str) -> None:
    """Aggregators that are given rows get others, with the same products."""
    rows = gradients()
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))[0]
    turned = rows @ rotation.double()
    tolerance = 1e-3 if name == "NashMTL" else 1e-6
    one, other = (TorchJD(name, OPTIONS[name]).combination(facts(r)) for r in (rows, turned))
    torch.testing.assert_close(one.weights, other.weights, rtol=tolerance, atol=tolerance)


@each
def test_gradients_that_depend_on_one_another_are_no_obstacle(name: str) -> None:
    """Rounding makes an eigenvalue of their products negative."""
    for seed in range(5):
        rows = gradients(seed=seed)
        rows[2] = rows[0] - 3 * rows[1]
        found = TorchJD(name, OPTIONS[name]).combination(facts(rows))
        assert found.logs == {"fallback": 0.0}


def test_the_scale() -> None:
    found = TorchJD("Mean", scale=3.0).combination(facts(gradients()))
    assert (found.scale * found.weights).tolist() == [1.0, 1.0, 1.0]


# ---- random ones --------------------------------------------------------------------------------


@each
def test_draws_depend_on_the_seed_and_the_step_alone(name: str, seed: pytest.MonkeyPatch) -> None:
    rows, found = gradients(), []
    for global_seed_, step in ((7, 3), (7, 3), (7, 4), (8, 3)):
        seed.setenv("PL_GLOBAL_SEED", str(global_seed_))
        torch.manual_seed(len(found))
        weights = TorchJD(name, OPTIONS[name]).combination(facts(rows, step)).weights
        found.append(weights)
    assert torch.equal(found[0], found[1])
    for other in found[2:]:
        assert torch.equal(found[0], other) == (name not in DRAW)


@pytest.mark.parametrize("name", sorted(DRAW))
def test_the_generators_of_the_run_are_left_alone(name: str) -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = (torch.rand(3), random.random(), np.random.rand())
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    combiner = TorchJD(name, OPTIONS[name])
    combiner.combination(facts(gradients()))
    combiner.load_state_dict(combiner.state_dict())
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]


# ---- those that remember ------------------------------------------------------------------------


def plain(value: Any) -> bool:
    """Tell whether a value consists of tensors and plain containers."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(v) for key, v in value.items())
    return value is None or isinstance(value, (Tensor, int, float, str, bool))


@each
@pytest.mark.parametrize(("steps", "used"), [(0, True), (1, False), (3, False), (3, True)])
def test_a_resumed_run_goes_on_with_the_same_bits(name: str, steps: int, used: bool) -> None:
    first = TorchJD(name, OPTIONS[name])
    for step in range(steps):
        first.combination(facts(gradients(seed=step), step))
    state = first.state_dict()
    assert plain(state)
    assert (state == {}) == (name not in REMEMBER or steps == 0)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    second = TorchJD(name, OPTIONS[name])
    if used:
        second.combination(facts(gradients(seed=99), 99))
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for step in range(steps, steps + 3):
        rows = gradients(seed=step)
        expected = first.combination(facts(rows, step)).weights
        assert torch.equal(second.combination(facts(rows, step)).weights, expected)


@pytest.mark.parametrize("name", sorted(REMEMBER))
def test_without_the_state_it_would_not(name: str) -> None:
    first, second = (TorchJD(name, OPTIONS[name]) for _ in range(2))
    for step in range(3):
        first.combination(facts(gradients(seed=step), step))
    last = facts(gradients(seed=9), 9)
    assert not torch.equal(first.combination(last).weights, second.combination(last).weights)


def test_a_state_is_a_copy_and_leaves_the_options_of_the_new_run() -> None:
    first = TorchJD("GradVac", {"beta": 0.3})
    first.combination(facts(gradients(), 0))
    state = first.state_dict()
    (before,) = [v.clone() for v in state["values"].values() if isinstance(v, Tensor)]
    second = TorchJD("GradVac", {"beta": 0.9})
    second.load_state_dict(state)
    for combiner in (first, second):
        combiner.combination(facts(gradients(seed=1), 1))
    (after,) = [v for v in state["values"].values() if isinstance(v, Tensor)]
    assert torch.equal(before, after)
    states = [c.state_dict()["values"] for c in (first, second)]
    assert not torch.equal(*(next(iter(s.values())) for s in states))


# ---- nothing to weigh ---------------------------------------------------------------------------


@each
def test_one_term_is_ordinary_descent(name: str) -> None:
    combiner = TorchJD(name, OPTIONS[name], scale=3.0)
    for rows in (gradients(terms=1), torch.full((1, 7), torch.nan).double()):
        found = combiner.combination(facts(rows))
        assert found.weights.tolist() == [1.0]
        assert found.scale == 1.0
    assert combiner.state_dict() == {}


@each
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_gradients_that_say_nothing_leave_the_plain_sum(name: str, value: float) -> None:
    combiner = TorchJD(name, OPTIONS[name])
    rows = gradients()
    rows[1 if value else slice(None)] = value
    found = combiner.combination(facts(rows))
    assert (found.scale * found.weights).tolist() == [1.0, 1.0, 1.0]
    assert found.logs == {"fallback": 1.0}
    # and nothing of it is remembered
    assert combiner.state_dict() == {}


def test_weights_that_are_not_finite_are_not_taken() -> None:
    combiner = TorchJD("Constant", {"weights": [1.0, float("nan"), 1.0]})
    found = combiner.combination(facts(gradients()))
    assert found.weights.tolist() == [1.0, 1.0, 1.0]
    assert found.logs == {"fallback": 1.0}


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_function_of_inner_products_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"TorchJD: {name} .*{REFUSED[name]}"):
        TorchJD(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("UPGard",), "has no aggregator 'UPGard'; the nearest are UPGrad"),
        (("Aggregator",), "has no aggregator 'Aggregator'"),
        (("CAGrad",), "CAGrad takes c, norm_eps: missing a required argument: 'c'"),
        (("PCGrad", {"c": 1.0}), "PCGrad takes no options: got an unexpected keyword argument 'c'"),
        (("CAGrad", {"c": -1.0}), "CAGrad takes c, norm_eps: c must be non-negative"),
        (("Constant", {"weights": ["a"]}), "Constant takes weights: "),
        (("UPGrad", {}, 0.0), "scale must be positive, got 0.0"),
        (("UPGrad", {}, 1.0, "both"), "scope must be one of exact, representation"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchJD(*arguments)


@pytest.mark.parametrize(
    ("name", "options"), [("Constant", {"weights": [1.0, 1.0]}), ("NashMTL", {"n_tasks": 2})]
)
def test_another_number_of_terms_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"TorchJD: {name} cannot weigh the terms a, b, c: "):
        TorchJD(name, options).combination(facts(gradients()))


def test_without_the_library_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.utilities.packages.find_spec", lambda package: None)
    with pytest.raises(ImportError, match=r"TorchJD needs .*: pip install 'trimtab\[torchjd\]'"):
        TorchJD()


def test_without_a_solver_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("needs cvxpy")

    monkeypatch.setattr(torchjd.aggregation.CAGrad, "__init__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"CAGrad needs more .*'trimtab\[torchjd\]'"):
        TorchJD("CAGrad")
