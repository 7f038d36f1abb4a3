"""Every classification loss is one flag on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import framework.losses
import trimtab
from framework.losses import AggregateResponseLoss, ClassificationLoss
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET, fit, terms

KINDS = [getattr(framework.losses, name) for name in framework.losses.__all__]
LOSSES = [
    kind
    for kind in KINDS
    if isinstance(kind, type)
    and issubclass(kind, ClassificationLoss)
    and kind != ClassificationLoss
]
# mean responses of bags take the place of the labels
BAGS = ["--data=Bags", "--data.data=Digits", "--data.bag_size=2", "--data.batch_size=32"]
EXTRA = {AggregateResponseLoss: ["--model.init_args.criterion.base=ce", *BAGS]}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_one_flag(kind: type[ClassificationLoss], tmp_path: Path) -> None:
    flag = [f"--model.init_args.criterion={kind.__name__}", *EXTRA.get(kind, [])]
    folder = f"--run_folder={tmp_path}"
    record = fit([*arguments("classifier"), *flag, folder, "--trainer.max_epochs=2"])
    assert len(record.steps) > 4
    if kind.monitorable:
        first, last = (terms(record.steps[place])["classification"] for place in (0, -1))
        assert last < first


def test_a_loss_for_bags_is_refused_without_them(tmp_path, capsys):
    args = [*arguments("classifier"), "--model.criterion=AggregateResponseLoss", *QUIET]
    with pytest.raises(SystemExit):
        trimtab.main(["fit", *args, f"--run_folder={tmp_path}"])
    assert "wrap the data in Bags" in capsys.readouterr().err
