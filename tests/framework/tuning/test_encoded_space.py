import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from framework.tuning.encoded_space import EncodedSpace

SPACE = {
    "kind": CategoricalDistribution(["relu", None, 3]),
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "epochs": IntDistribution(2, 20, step=2),
    "width": IntDistribution(1, 64, log=True),
}


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.sampled_from([None, "epochs"]))
def test_settings_come_back_from_their_row(row, fidelity):
    space = EncodedSpace(SPACE, fidelity)
    settings = space.decode(row)
    for name, kind in SPACE.items():
        assert kind._contains(kind.to_internal_repr(settings[name]))
    again = space.decode(space.encode(settings))
    assert again.pop("lr") == pytest.approx(settings.pop("lr"), rel=1e-9)
    assert again == settings


def test_columns_of_choices_and_of_a_fidelity():
    space = EncodedSpace(SPACE, "epochs")
    assert (space.columns, space.fidelity_column) == (6, 4)
    assert space.bounds == ([0.0, 0.0, 0.0, 0.0, 0.1, 0.0], [1.0] * 6)
    row = space.encode({"kind": None, "lr": 0.01, "epochs": 10, "width": 64})
    assert row[:5] == pytest.approx([0.0, 1.0, 0.0, 0.5, 0.5])
    assert space.decode([*row[:4], 0.1, 0.0])["epochs"] == 2
    assert space.decode([*row[:4], 1.0, 0.0])["epochs"] == 20
    # the nearest number of epochs, whatever the columns of other numbers are
    assert [space.decode([*row[:4], e / 20, 0.0])["epochs"] for e in (4.9, 5.1)] == [4, 6]


def test_a_logarithmic_fidelity_is_rounded_to_what_is_allowed():
    space = EncodedSpace({"epochs": IntDistribution(1, 64, log=True)}, "epochs")
    assert space.encode({"epochs": 16}) == [0.25]
    assert [space.decode([place])["epochs"] for place in (0.0, 0.25, 1.0)] == [1, 16, 64]


@pytest.mark.parametrize("name", ["absent", "kind", "drop"])
def test_a_fidelity_must_be_a_positive_number(name):
    space = {**SPACE, "drop": FloatDistribution(0.0, 1.0)}
    with pytest.raises(ValueError, match=f"The fidelity {name} must be a number"):
        EncodedSpace(space, name)
