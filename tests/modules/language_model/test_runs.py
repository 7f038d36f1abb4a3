"""A language model from the command to a text that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import trimtab
from modules import LSTMLanguageModel
from tests.helpers.configs import arguments
from tests.helpers.runs import CONFIGS, QUIET


def test_a_checkpoint_predicts_another_text_and_writes(tmp_path: Path) -> None:
    args = [*arguments("language_model"), *QUIET, f"--run_folder={tmp_path / 'run'}"]
    trimtab.main(["fit", *args, "--trainer.max_epochs=1"])
    best = tmp_path / "run" / "checkpoints" / "last.ckpt"
    (tmp_path / "new.txt").write_text("A new text of which no window is left out. " * 3)
    other = [f"--data.path={tmp_path / 'new.txt'}", f"--ckpt_path={best}"]
    trimtab.main(["predict", *args, *other])
    lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "index,log_likelihood"
    assert len(lines) == 1 + (43 * 3 - 1) // 8
    model = trimtab.load(best)
    text = "A new tex"
    found = model.predict(text)["log_likelihood"]
    assert float(found) == pytest.approx(float(lines[1].split(",")[1]), abs=1e-4)
    written = trimtab.generate_text(model, "First", length=20, seed=1)
    assert len(written) == 20
    assert written == trimtab.generate_text(model, "First", length=20, seed=1)


@pytest.mark.parametrize("name", ["language_model", "selftuning_lstm"])
def test_the_configs_monitor_what_words_have_too(name: str) -> None:
    model = LSTMLanguageModel(vocabulary_size=5, width=4, hidden_width=4)
    model.data_facts = {"token_level": "word"}
    monitor = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["checkpoint"]["monitor"]
    assert monitor.removeprefix("val/") in model.make_metrics()
