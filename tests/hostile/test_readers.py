"""No input makes a reader run code, touch other files, take more memory than stated, or hang."""

from __future__ import annotations

import pytest

import trimtab
from framework.command.known_classes import all_classes
from tests.hostile.corpus import recipe, run
from tests.hostile.openers import openers
from tests.hostile.readers import READERS

SAMPLE = 24
"""Inputs of each reader in ``make test``."""
ALL = 10_000
"""Inputs of each reader in ``make test-all``."""
OUR_OWN = {
    "framework.command.cli:SaveConfig._write": "the config that it has just written",
    "framework.command.commands:config_texts": "configs of the installation",
    "framework.command.fit_config:fit_config": "the config that it has just made",
    "framework.command.new:new_texts": "the checkout that a person works on",
    "framework.command.new:templates": "templates of the installation",
    "framework.command.new:exported_names": "the checkout that a person works on",
    "framework.distributed.shared_file:_new_file": "a new file that ranks share",
    "framework.distributed.shared_file:shared_zeros": "a new file that ranks share",
    "framework.language.language_model:_unpacked_smollm": "an installed package",
    "framework.language.vocabulary:_characters": "text that it has in memory",
    "framework.reports.pages:_source": "templates of the installation",
    "framework.runs.lost_rank:_is_running": "what the system says of a process",
    "framework.utilities.files:_RecordingFile": "a new file",
    "framework.utilities.files:open_new": "a new file",
    "framework.utilities.files:open_new_binary": "a new file",
    "framework.utilities.files:open_in_place": "the file that it has just written",
    "framework.runs.media:_figure_to_tensorboard": "the picture that it has just written",
    "callbacks.onnx_export:ONNXExport.on_fit_end": "the file that it has just written",
    "callbacks.embedding_writer:_Rows.__init__": "the files that ranks have just written",
    "callbacks.prediction_writer:_joined": "the files that ranks have just written",
}
"""Functions that open what no stranger hands over."""


@pytest.fixture(scope="module", autouse=True)
def classes() -> None:
    trimtab.import_configurable_classes()
    # a message may name any class, and the first imports them
    all_classes()


@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_or_refuses(name: str) -> None:
    faults = run(READERS[name], range(SAMPLE))
    assert not faults, "\n" + recipe(READERS[name], faults)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_or_refuses_all(name: str) -> None:
    faults = run(READERS[name], range(SAMPLE, ALL))
    assert not faults, "\n" + recipe(READERS[name], faults[:50])


def test_every_reader_is_registered() -> None:
    known = {function for one in READERS.values() for function in one.functions} | set(OUR_OWN)
    found = [*openers()]
    unknown = [f"{name}, line {line}: {call}" for name, line, call in found if name not in known]
    assert not unknown, "register them in tests/hostile:\n" + "\n".join(unknown)
    stale = known - {name for name, *_ in found}
    assert not stale, f"no longer there, or open nothing: {sorted(stale)}"
