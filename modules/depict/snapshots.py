"""The codes of some samples in the course of a run."""

from __future__ import annotations

from typing import Any

from framework.metrics.embedding_sample import EmbeddingSnapshot

PICTURES = 8


class Snapshots:
    """Keeps the codes of some samples at a few moments, evenly spread over the run.

    When there are more than eight, every second one is forgotten, and from then on half as many are
    kept; the first and the latest always are.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[str, EmbeddingSnapshot]] = []
        """Title and codes, the oldest first."""
        self._stride = 1
        self._seen = 0

    def add(self, title: str, codes: EmbeddingSnapshot) -> None:
        """Keep a snapshot, under a title that names its time."""
        # the one before was kept only as the latest
        if self.kept and (self._seen - 1) % self._stride:
            self.kept.pop()
        self.kept.append((title, EmbeddingSnapshot(*(part.cpu() for part in codes))))
        if len(self.kept) > PICTURES:
            self.kept = self.kept[::2]
            self._stride *= 2
        self._seen += 1

    def state_dict(self) -> dict[str, Any]:
        """Return all snapshots, in tensors and plain containers."""
        kept = [[title, list(codes)] for title, codes in self.kept]
        return {"kept": kept, "stride": self._stride, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.kept = [(title, EmbeddingSnapshot(*codes)) for title, codes in state["kept"]]
        self._stride, self._seen = state["stride"], state["seen"]
