"""A pytest plugin: tests in random order, or one in so many of them.

Example:
    python -m pytest -p tests.helpers.sampling --shuffle 3 --one-in 8
"""

from __future__ import annotations

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sampling")
    group.addoption("--shuffle", type=int, metavar="SEED", help="Order of the tests.")
    group.addoption("--one-in", type=int, default=1, metavar="N", help="Share of tests that run.")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed, share = config.getoption("shuffle"), config.getoption("one_in")
    generator = random.Random(seed)
    if share > 1:
        kept = set(generator.sample(range(len(items)), len(items) // share))
        left = [item for place, item in enumerate(items) if place not in kept]
        items[:] = [item for place, item in enumerate(items) if place in kept]
        config.hook.pytest_deselected(items=left)
    if seed is not None:
        generator.shuffle(items)
