"""Tuned weights of terms: row by row, shared, and what is refused."""

import pytest
import torch
from torch import nn

from framework.objectives import Objectives, reduce_objectives
from framework.self_tuning import Draws, TermWeight, hyperparameters_of


def weighted(objectives: Objectives, effect: TermWeight, *values: float) -> Objectives:
    weight = torch.tensor(values if len(values) > 1 else values[0])
    with effect.at({"weight": weight}, Draws(0, 0)):
        effect.change_objectives(objectives, {}, nn.Identity())
    return objectives


def terms() -> Objectives:
    return Objectives(
        terms={"activation": torch.tensor(5.0)},
        per_sample={"box": torch.tensor([1.0, 2.0]), "class": torch.tensor([10.0, 20.0])},
        weights={"box": 0.5},
    )


def test_rows_of_a_term() -> None:
    found = weighted(terms(), TermWeight("box"), 4.0, 0.5)
    assert found.per_sample["box"].tolist() == [4, 1]
    assert found.weights == {"box": 0.5}
    assert float(reduce_objectives(found).total) == pytest.approx(0.5 * 2.5 + 15 + 5)


def test_a_shared_weight_multiplies_that_of_the_config() -> None:
    found = weighted(terms(), TermWeight("box"), 4.0)
    assert found.per_sample["box"].tolist() == [1, 2]
    assert float(found.weights["box"]) == 2
    found = weighted(found, TermWeight("activation"), 0.1)
    assert float(reduce_objectives(found).total) == pytest.approx(2 * 1.5 + 15 + 0.5)


def test_names() -> None:
    effects = [TermWeight("box"), TermWeight("class", name="classes")]
    assert list(hyperparameters_of(effects)) == ["box.weight", "classes.weight"]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="no term 'boxes'; the nearest are box; it has activation"):
        weighted(terms(), TermWeight("boxes"), 1.0)
    with pytest.raises(ValueError, match=r"activation\.weight has one value per row: .*shared"):
        weighted(terms(), TermWeight("activation"), 1.0, 2.0)
    objectives = terms()
    objectives.weights["activation"] = 0.0
    with pytest.raises(ValueError, match="'activation' has the weight 0"):
        weighted(objectives, TermWeight("activation"), 1.0)
    with pytest.raises(ValueError, match=r"each of the 3 rows .* the term has the shape \(2,\)"):
        weighted(terms(), TermWeight("box"), 1.0, 2.0, 3.0)
    # outside of a step
    TermWeight("boxes").change_objectives(terms(), {}, nn.Identity())
