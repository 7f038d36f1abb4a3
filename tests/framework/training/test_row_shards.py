"""Training with parameters of which every rank holds some rows."""

from __future__ import annotations

import pytest
import torch

from framework.embedding.heads import CosFaceHead
from framework.objectives.errors import IncompatibleError
from framework.optim.lion import LionK
from framework.training.compatibility import check_row_optimizer


def test_an_optimizer_of_whole_matrices_is_not_run_on_their_rows():
    head = CosFaceHead(2, 5)
    whole = [
        torch.optim.Adafactor(head.parameters()),
        torch.optim.Muon(head.parameters()),
        LionK(head.parameters(), kappa="nuclear"),
    ]
    for optimizer in whole:
        check_row_optimizer(optimizer, head)
    head.shard(0, 2)
    for optimizer in whole:
        with pytest.raises(IncompatibleError, match="'weight' by what it knows of others"):
            check_row_optimizer(optimizer, head)
    check_row_optimizer(LionK(head.parameters()), head)
    check_row_optimizer(torch.optim.AdamW(head.parameters()), head)
