"""Per-sample memory of DEPICT: assignments, targets, first labels, and the held-out part."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.clustering.target_distribution import TargetKind, dec_target_distribution
from framework.data.datamodule import DataModule
from framework.data.datasets import root_and_rows
from framework.distributed.collectives import rank, world_size
from framework.distributed.sample_state import SampleState
from framework.objectives.errors import IncompatibleError
from framework.utilities.randomness import global_seed, stable_seed


class SampleTables:
    """Remembers every sample's soft assignment P, target Q and first label.

    Args:
        data: Datamodule of the run.
        num_clusters: Number K of clusters.
        held_out: Share of the samples that is held out, drawn by the run's seed.
        device: Device of the tables.

    Attributes:
        index: Indices of the samples that are trained, (N,).
        held_out: Whether a sample is held out, by its index.
        held_out_rows: Positions of held-out samples in the training set.

    Raises:
        IncompatibleError: There are fewer samples than clusters.
    """

    def __init__(
        self, data: DataModule, num_clusters: int, held_out: float, device: torch.device
    ) -> None:
        size = data.num_samples
        rows = range(len(data.train_set))  # type: ignore[arg-type]
        if len(rows) < num_clusters:
            raise IncompatibleError(
                f"{type(data).__name__} has {len(rows)} samples for {num_clusters} clusters."
            )
        self.assignments = SampleState(size, (num_clusters,), device=device)
        self.targets = SampleState(size, (num_clusters,), device=device)
        self.first_label = SampleState(size, dtype=torch.int64, device=device)
        generator = torch.Generator().manual_seed(stable_seed(global_seed(), "held out"))
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[torch.randperm(size, generator=generator)[: round(held_out * size)]] = True
        index = torch.tensor(root_and_rows(data.train_set, list(rows))[1])
        self.held_out_rows: list[int] = chosen[index].nonzero().flatten().tolist()
        self.held_out = chosen.to(device)
        self.index = index.to(device)

    @staticmethod
    def write(state: SampleState, index: Tensor, values: Tensor) -> None:
        """Write rows that every rank holds, each rank its part; a collective call."""
        own = slice(rank(), None, world_size())
        state.write(index[own], values[own])

    def update_targets(self, kind: TargetKind) -> float:
        """Make Q of P, and return the mean squared change of Q; a collective call."""
        new = dec_target_distribution(self.assignments.read(self.index), kind)
        change = (new - self.targets.read(self.index)).double().square().mean()
        self.write(self.targets, self.index, new)
        return float(change)
