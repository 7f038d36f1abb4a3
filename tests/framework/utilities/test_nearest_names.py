"""The nearest of the known names."""

from __future__ import annotations

import pytest

from framework.utilities.nearest_names import nearest


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("lag", ["lag_epochs", "weight"], "; the nearest are lag_epochs"),
        ("source", ["source", "sources"], "; the nearest are sources"),
        ("zzz", ["lag_epochs"], ""),
    ],
)
def test_a_beginning_is_near_and_the_word_itself_is_not(word, known, found):
    assert nearest(word, known) == found
