"""Losses of fixed training rows, which no run notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from callbacks import OpposingSignals
from framework.distributed.collectives import rank
from framework.dynamics import hessian_top_eigenvalue
from framework.objectives.errors import IncompatibleError
from framework.training.probe import Probe
from framework.utilities.randomness import capture_rng
from tests.helpers.ranks import TwoRanks
from tests.helpers.runs import differences
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

DDP_SETTINGS: dict[str, Any] = {"strategy": "ddp", "devices": 2}


class Module(TinyModule):
    """The tiny module with dropout and batch norm, which tell the two modes apart."""

    def __init__(self) -> None:
        super().__init__()
        # else ranks would evaluate by statistics of their own
        self.sync_batchnorm = True
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
            )  # type: ignore[assignment]


class Look(Callback):
    """Looks at the probe once, after the first step."""

    def __init__(self, size: int = 1000, batch_size: int = 7) -> None:
        self.sizes = size, batch_size
        self.found: dict[Any, Any] = {}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.found:
            return
        size, batch_size = self.sizes
        probe = Probe(pl_module, size, self, batch_size)
        before = capture_rng()
        groups = torch.tensor([0, 3, 9]), torch.tensor([2, 8])
        gradients = [g.clone() for p in pl_module.parameters() if (g := p.grad) is not None]
        self.found = {
            "losses": probe.losses(),
            "index": probe.index,
            "gradients": probe.gradients(*groups),
            "sharpness": probe.sharpness(tolerance=1e-8),
            "read": probe.read([1, 4]),
        }
        assert not differences(before, capture_rng())
        left = [g for p in pl_module.parameters() if (g := p.grad) is not None]
        assert all(torch.equal(a, b) for a, b in zip(gradients, left, strict=True))
        pl_module.eval()
        fields = trainer.datamodule.train_set.fields
        rows: dict[str, Tensor] = {name: value[probe.index] for name, value in fields.items()}
        rows |= {"index": torch.tensor(probe.index), "image": rows["image"].double()}
        terms = pl_module.objectives(rows).per_sample
        losses = terms["classification"] + 0.5 * terms["size"]
        self.found["expected"] = losses.detach()
        self.found["slopes"] = [
            list(torch.autograd.grad(losses[g].sum(), pl_module.parameters(), retain_graph=True))
            for g in groups
        ]
        parameters = list(pl_module.parameters())
        self.found["top"] = hessian_top_eigenvalue(losses.mean(), parameters, tolerance=1e-8)
        pl_module.train()


def _look(folder: Path, look: Look, **settings: Any) -> dict[str, Any]:
    settings = {"max_steps": 1, "limit_val_batches": 0, "precision": "64-true", **settings}
    trainer = tiny_trainer(folder, [look], False, **settings)
    torch.manual_seed(0)
    trainer.fit(Module(), TinyData())
    return look.found


def _assert_as_by_hand(found: dict[str, Any]) -> None:
    exact: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(found["losses"], found["expected"], **exact)
    torch.testing.assert_close(found["gradients"], found["slopes"], **exact)
    assert found["sharpness"] == pytest.approx(found["top"], rel=1e-6)


def test_the_losses_and_gradients_are_those_of_evaluation_mode(tmp_path: Path) -> None:
    found = _look(tmp_path, Look())
    assert found["index"] == list(range(24))
    _assert_as_by_hand(found)
    assert found["read"]["index"].tolist() == [1, 4]


def test_a_part_of_the_rows_is_drawn_once_and_for_all(tmp_path: Path) -> None:
    found = [_look(tmp_path, Look(12, size)) for size in (5, 12)]
    assert found[0]["index"] == found[1]["index"] == sorted(set(found[0]["index"]))
    assert len(found[0]["index"]) == 12
    assert found[0]["index"] != list(range(12))
    _assert_as_by_hand(found[0])


def test_rows_that_are_held_out_are_not_in_it(tmp_path: Path) -> None:
    class Part(TinyData):
        def setup(self, stage: str) -> None:
            self.train_set = Subset(self.train_set, list(range(6, 24)))  # type: ignore[arg-type]

    class Index(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            probe = Probe(pl_module, 100, self)
            self.found = probe.index, probe.rows, probe.read([0])["index"].tolist()

    watch = Index()
    tiny_trainer(tmp_path, [watch], False, max_steps=1).fit(Module(), Part())
    assert watch.found == (list(range(6, 24)), list(range(18)), [6])


def _look_on_ranks(folder: Path) -> dict[str, Any]:
    # of the last batch of 3 rows the ranks have uneven parts
    return _look(folder / str(rank()), Look(batch_size=7), **DDP_SETTINGS)


def test_two_ranks_see_what_one_process_sees(tmp_path: Path, two_ranks: TwoRanks) -> None:
    first, second = two_ranks(_look_on_ranks, tmp_path)
    assert torch.equal(first["losses"], second["losses"])
    _assert_as_by_hand(first)
    assert first["sharpness"] == second["sharpness"]


class Plain(LightningModule):
    """A module that is not ours."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(5, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Published(Plain):
    def per_sample_losses(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1], reduction="none")


def _plain_data() -> TensorDataset:
    fields = TinyData().train_set.fields  # type: ignore[union-attr]
    return TensorDataset(fields["image"], fields["label"])


def test_a_module_of_any_kind_publishes_its_losses(tmp_path: Path) -> None:
    class Ends(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            probe = Probe(pl_module, 100, self, batch_size=10)
            expected = pl_module.per_sample_losses(_plain_data().tensors)
            torch.testing.assert_close(probe.losses(), expected.detach().double())
            self.ended = True

    ends = Ends()
    tiny_trainer(tmp_path, [ends], False).fit(Published(), DataLoader(_plain_data(), 8))
    assert ends.ended


def test_a_module_that_changes_batches_at_random_does_not_notice(tmp_path: Path) -> None:
    class Augmented(Published):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] + torch.randn_like(batch[0]), batch[1]

    found = []
    for callbacks in ([], [OpposingSignals(k=2, every_n_steps=1)]):
        torch.manual_seed(0)
        module = Augmented()
        trainer = tiny_trainer(tmp_path, [*callbacks], False)
        trainer.fit(module, DataLoader(_plain_data(), 8, shuffle=True))
        found.append(module.state_dict())
    assert not differences(*found)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([*zip(*_plain_data().tensors, strict=True)])


class Whole(Published):
    def per_sample_losses(self, batch: Any) -> Tensor:
        return super().per_sample_losses(batch).mean()


@pytest.mark.parametrize(
    ("module", "data", "said"),
    [
        (Plain, _plain_data(), "give Plain a method per_sample_losses"),
        (Published, Endless(), "DataLoader of a map-style data set"),
        (Published, Subset(_plain_data(), [3]), "compares training rows, and there are 1"),
        (Whole, _plain_data(), r"losses of 24 rows of Whole have the shape \(\)"),
    ],
)
def test_what_has_no_loss_per_row_is_refused(
    module: type[Plain], data: Any, said: str, tmp_path: Path
) -> None:
    trainer = tiny_trainer(tmp_path, [OpposingSignals(every_n_steps=1)], False)
    with pytest.raises(IncompatibleError, match=said):
        trainer.fit(module(), DataLoader(data, 8))
