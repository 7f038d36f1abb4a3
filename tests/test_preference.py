"""Dynamic preference over detectors, clustering and autoencoders: what was logged is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.gradients import HeldOutGuidedLP
from framework.objectives.reduction import reduce_objectives
from framework.runs.csv_logger import read_metrics
from framework.training.objectives_callback import ObjectivesCallback
from tests.helpers.configs import arguments
from tests.helpers.runs import fit

PREFIX = "train/preference/"
SYSTEMS = {
    "gghl": ["gghl", "with/preference"],
    "depict": ["depict", "with/preference"],
    "sae": ["sae", "with/preference"],
    "gated": ["sae", "with/sae_gated", "with/preference"],
    "paretoda": ["paretoda"],
}
# early enough for a short run
MORE = {"sae": ["--model.selection.k=1", "--model.dead_tokens=30"]}


class Checker(ObjectivesCallback):
    """Computes every term's gradient anew and compares what the shared parameters get."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Tensor | None]] = {}
        self.sizes: list[int] = []
        self.gap = 0.0

    def on_objectives(self, trainer, module, objectives, batch):
        shared = list(module.shared_parameters())
        self.rows = {}
        for name, term in reduce_objectives(objectives).terms.items():
            weight = float(objectives.weights.get(name, 1.0))
            found = torch.autograd.grad(term, shared, retain_graph=True, allow_unused=True)
            self.rows[name] = [None if g is None else weight * g for g in found]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        logs = pl_module._combined_step.logs
        weights = {
            name.rpartition("/")[2]: value
            for name, value in logs.items()
            if name.startswith("preference/weight/")
        }
        self.sizes.append(len(weights))
        for place, parameter in enumerate(pl_module.shared_parameters()):
            if parameter.grad is None:
                continue
            expected = torch.zeros_like(parameter)
            for name, weight in weights.items():
                gradient = self.rows[name][place]
                if gradient is not None:
                    expected += len(weights) * weight * gradient
            size = float(expected.abs().max())
            gap = float((parameter.grad - expected).abs().max())
            self.gap = max(self.gap, gap / (size + 1e-6))


def column(row: dict[str, Any], name: str) -> float | None:
    text = row.get(PREFIX + name, "")
    return None if text in ("", None) else float(text)


@pytest.mark.parametrize("system", SYSTEMS)
def test_logged_weights_are_the_answer_and_the_gradient_their_combination(
    system, tmp_path, data_folder
):
    args = [*arguments(*SYSTEMS[system], data=data_folder), *MORE.get(system, [])]
    checker = Checker()
    fit([*args, f"--run_folder={tmp_path}"], [checker])
    assert checker.gap < 1e-4
    assert max(checker.sizes) > 1
    _, rows = read_metrics(Path(tmp_path) / "metrics.csv")
    solver = HeldOutGuidedLP()
    compared = 0
    for row in rows:
        names = [
            name.removeprefix(f"{PREFIX}weight/")
            for name in row
            if name.startswith(f"{PREFIX}weight/") and row[name] not in ("", None)
        ]
        if not names:
            continue
        gram = torch.zeros(len(names), len(names), dtype=torch.float64)
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                value = column(row, f"gram/{first}/{second}")
                gram[i, j] = column(row, f"gram/{second}/{first}") if value is None else value
        guide = torch.tensor([column(row, f"guide/{n}") for n in names], dtype=torch.float64)
        answer = solver.weights(gram, guide, column(row, "guide_loss"))
        logged = [column(row, f"weight/{name}") for name in names]
        # a column that came later may put the terms in another order
        assert answer.tolist() == pytest.approx(logged, abs=1e-12)
        compared += len(names) > 1
    assert compared > 2
