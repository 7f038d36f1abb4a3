import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from framework.tuning.unit_cube import from_unit, to_unit

KINDS = (
    FloatDistribution(-2.0, 3.0),
    FloatDistribution(1e-5, 1e-1, log=True),
    FloatDistribution(0.0, 0.5, step=0.1),
    IntDistribution(-3, 4),
    IntDistribution(16, 256, step=16),
    IntDistribution(1, 100, log=True),
    CategoricalDistribution([None, "a", 0.5]),
)


@given(st.sampled_from(KINDS), st.floats(-0.5, 1.5))
def test_a_value_lies_in_the_space_and_comes_back(kind, place):
    value = from_unit(kind, place)
    assert kind._contains(kind.to_internal_repr(value))
    back = from_unit(kind, to_unit(kind, value))
    if isinstance(value, float):
        assert back == pytest.approx(value, rel=1e-9, abs=1e-12)
    else:
        assert back == value


@pytest.mark.parametrize("kind", KINDS[3:5])
def test_steps_have_equal_parts(kind):
    count = (kind.high - kind.low) // kind.step + 1
    values = [from_unit(kind, (i + 0.5) / 960) for i in range(960)]
    assert {values.count(value) for value in values} == {960 // count}


def test_logarithmic_places_are_ratios():
    kind = FloatDistribution(1e-4, 1.0, log=True)
    assert [from_unit(kind, place) for place in (0, 0.25, 1)] == pytest.approx([1e-4, 1e-3, 1.0])
    number = IntDistribution(1, 8, log=True)
    assert to_unit(number, 1) == pytest.approx(math.log(2) / math.log(17))
