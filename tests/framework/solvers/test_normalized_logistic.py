import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from framework.solvers import NormalizedLogisticRegression

PAIR = np.array([[1.0, -1.0], [-1.0, -4.0]]), np.array([1, -1])


def worst_case(n: int) -> tuple[np.ndarray, np.ndarray]:
    """One sample against n - 1 copies of another."""
    return np.array([[0.5, -1.0], *[[-0.5, -1.0]] * (n - 1)]), np.array([1, *[-1] * (n - 1)])


def solver(step_size: float, normalize: bool, max_iter: int = 100_000):
    return NormalizedLogisticRegression(step_size, max_iter, normalize, fit_intercept=False)


def theta(steps: int, step_size: float, normalize: bool) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return solver(step_size, normalize, max_iter=steps).fit(*PAIR).coef_[0].tolist()


def test_first_steps_of_the_worked_example() -> None:
    assert theta(1, 1.0, normalize=False) == pytest.approx([0.5, 0.75])
    assert theta(2, 1.0, normalize=False) == pytest.approx([0.795744, 0.527536], abs=6e-7)
    assert theta(1, 1.0, normalize=True) == pytest.approx([1.0, 1.5])
    assert theta(2, 1.0, normalize=True) == pytest.approx([2.0, 0.507307], abs=6e-7)


def test_a_large_step_is_solved_at_once() -> None:
    assert theta(1, 100.0, normalize=False) == pytest.approx([50.0, 75.0])
    solved = solver(100.0, normalize=False).fit(*PAIR)
    assert solved.n_iter_ == 2
    assert solved.coef_[0].tolist() == pytest.approx([100.0, 25.0])


@pytest.mark.parametrize(
    ("n", "normalize", "iterations"),
    [
        (100, True, {0.1: 110, 1.0: 11, 10.0: 2, 100.0: 2}),
        (1000, True, {0.1: 157, 1.0: 16, 10.0: 2, 100.0: 2}),
        (100, False, {0.1: 5615, 1.0: 561, 10.0: 55, 100.0: 31}),
        (1000, False, {10.0: 729, 100.0: 308}),
        pytest.param(1000, False, {0.1: 73133, 1.0: 7313}, marks=pytest.mark.slow),
    ],
)
def test_iterations_on_the_worst_case(n: int, normalize: bool, iterations: dict) -> None:
    data = worst_case(n)
    assert {g: solver(g, normalize).fit(*data).n_iter_ for g in iterations} == iterations


def test_stays_below_its_bound() -> None:
    for n in (10, 100, 1000):
        X, y = worst_case(n)
        mu = np.abs(X[:, 0]).max()  # of the separator (1, 0), which is the best by symmetry
        R = np.linalg.norm(X, axis=1).max()
        for gamma in (0.1, 1.0, 10.0):
            bound = R**2 / mu**2 + 2 * np.log(2 * n - 1) / (gamma * mu**2)
            assert solver(gamma, normalize=True).fit(X, y).n_iter_ <= bound


@pytest.mark.parametrize("normalize", [False, True])
def test_an_infinite_step_is_the_batch_perceptron(normalize: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    y = np.sign(X @ rng.normal(size=5))
    expected, steps = np.zeros(5), 0
    while (y * (X @ expected) <= 0).any():
        wrong = (y * (X @ expected) <= 0) * (0.5 if steps == 0 else 1.0)
        expected += (wrong * y) @ X / (wrong.sum() if normalize else len(X))
        steps += 1
    limit = solver(np.inf, normalize).fit(X, y)
    assert steps > 2
    assert limit.n_iter_ == steps
    np.testing.assert_allclose(limit.coef_[0], expected)
    large = solver(1e9, normalize).fit(X, y)
    np.testing.assert_allclose(large.coef_[0] / 1e9, expected, rtol=1e-6)


@pytest.mark.parametrize(("many", "few"), [(3, 5), (8, 1)])
def test_on_imbalanced_digits_the_step_size_matters_less(many: int, few: int) -> None:
    X, y = load_digits(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == many)[:150], np.flatnonzero(y == few)[:15]])
    steps = {
        (normalize, gamma): solver(gamma, normalize).fit(X[rows] / 16, y[rows]).n_iter_
        for normalize in (False, True)
        for gamma in (0.1, 1.0, 10.0, 100.0, np.inf)
    }
    plain = [steps[False, gamma] for gamma in (0.1, 1.0, 10.0, 100.0)]
    normalized = [steps[True, gamma] for gamma in (0.1, 1.0, 10.0, 100.0)]
    assert max(plain) > 50 * min(plain)
    assert max(normalized) < 6 * min(normalized)
    assert steps[False, 100.0] == pytest.approx(steps[False, np.inf], rel=0.1)


def test_many_classes_take_multinomial_steps() -> None:
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(12, 3)), np.arange(12) % 3
    centered = np.eye(3)[y] - 1 / 3
    with pytest.warns(ConvergenceWarning, match=r"\d+ of 12 samples .* after 1 steps"):
        first = solver(10.0, normalize=True, max_iter=1).fit(X, y)
    np.testing.assert_allclose(first.coef_, 10.0 * centered.T @ X / (12 * 2 / 3))
    with pytest.warns(ConvergenceWarning, match="after 2 steps"):
        second = solver(1.0, normalize=True, max_iter=2).fit(X, y)
    start = centered.T @ X / 8
    p = np.exp(X @ start.T) / np.exp(X @ start.T).sum(1, keepdims=True)
    residual = np.eye(3)[y] - p
    step = residual.T @ X / (1 - p[np.arange(12), y]).sum()
    np.testing.assert_allclose(second.coef_, start + step)


def test_separates_many_classes_with_an_intercept() -> None:
    rng = np.random.default_rng(2)
    centers = np.array([[10.0, 10.0], [14.0, 10.0], [10.0, 14.0], [14.0, 14.0]])
    names = np.array(["a", "b", "c", "d"])
    label = np.repeat(np.arange(4), 10)
    X = centers[label] + rng.uniform(-0.5, 0.5, (40, 2))
    model = NormalizedLogisticRegression(max_iter=5000).fit(X, names[label])
    assert model.score(X, names[label]) == 1.0
    assert model.coef_.shape == (4, 2)
    assert model.intercept_.shape == (4,)
    assert model.decision_function(X).shape == (40, 4)


def test_stops_at_the_first_step_without_errors() -> None:
    X, y = worst_case(20)
    steps = solver(1.0, normalize=True).fit(X, y).n_iter_
    with pytest.warns(ConvergenceWarning):
        before = solver(1.0, normalize=True, max_iter=steps - 1).fit(X, y)
    assert before.score(X, y) < 1


def test_says_so_where_the_data_are_not_separable() -> None:
    with pytest.warns(ConvergenceWarning, match="1 of 3 samples are still misclassified after 4"):
        NormalizedLogisticRegression(max_iter=4).fit([[1.0], [1.0], [5.0]], [0, 1, 1])


def test_a_tie_is_an_error() -> None:
    with pytest.warns(ConvergenceWarning, match="2 of 2 samples"):
        solver(1.0, normalize=True, max_iter=3).fit(np.zeros((2, 1)), [0, 1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({"step_size": 0.0}, "step_size must be above 0"), ({"max_iter": 0}, "max_iter must be at")],
)
def test_refuses_bad_arguments(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NormalizedLogisticRegression(**arguments).fit(*PAIR)


# some of the checks' data are not separable
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([NormalizedLogisticRegression(max_iter=100)])
def test_is_a_classifier_of_scikit_learn(estimator, check) -> None:
    check(estimator)
