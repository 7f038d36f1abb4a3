"""Base of callbacks that write one file of predictions, of which every rank has a part first."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from framework.distributed.collectives import world_size
from framework.utilities.files import part_of, remove_file, remove_parts, writing
from framework.utilities.packages import require_package


class PartWriter(Callback):
    """Base of callbacks that append rows to a part file on every rank, and join them at the end.

    Class attributes:
        name: What is written; the default name of the file.

    Args:
        path: Path of the file, which ends in the format; default ``name`` in the run folder.
        format: Format of the file, and the ending of its name.

    Raises:
        ValueError: ``path`` does not end in the format.
    """

    name: ClassVar[str]

    def __init__(self, path: str | None, format: str) -> None:  # noqa: A002
        # a config must not be able to name a file of another kind
        if path is not None and Path(path).suffix != f".{format}":
            raise ValueError(
                f"The {self.name} are to be written as {format}, but to {path}: the path must end "
                f"in .{format}."
            )
        self.path = path
        self.format = format
        self._part: IO[Any] | None = None
        self._place = Path()

    def check_format(self) -> None:
        """Refuse Parquet where it cannot be written, before anything is predicted."""
        if self.format == "parquet":
            require_package("pyarrow", extra="parquet", purpose=type(self).__name__)

    def target(self, trainer: Trainer) -> Path:
        """Return the path of the file."""
        if self.path is not None:
            return Path(self.path)
        return Path(trainer.default_root_dir) / f"{self.name}.{self.format}"

    def open_part(self, trainer: Trainer, create: Callable[[Path], IO[Any]]) -> None:
        """Open this rank's part."""
        target = self.target(trainer)
        if trainer.is_global_zero:
            remove_parts(target.parent)
        self._place = part_of(target)
        self._part = create(self._place)

    @abstractmethod
    def append(self, trainer: Trainer, pl_module: LightningModule, outputs: Any) -> None:
        """Append what ``predict_step`` returned for a batch to this rank's part."""

    def whole_part(self) -> Any:
        """Return what rank 0 needs of this rank's part, now that it is whole; default: its path."""
        return str(self._place)

    @abstractmethod
    def join(self, parts: list[Any], trainer: Trainer) -> None:
        """Join the parts into one file, and remove them.

        Args:
            parts: What ``whole_part`` returned on each rank.
            trainer: Trainer of the run.
        """

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the rows of a batch, which may be none."""
        if self._part is None:
            return
        if dataloader_idx > 0:
            raise ValueError(
                f"{self.name.capitalize()} of several data loaders do not fit in one file."
            )
        self.append(trainer, pl_module, outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the parts of all ranks into one file."""
        if self._part is None:
            return
        with writing(self.target(trainer)):
            self._part.close()
        self._part = None
        own = self.whole_part()
        parts: list[Any] = [own] * world_size()
        if world_size() > 1:
            dist.all_gather_object(parts, own)
        if trainer.is_global_zero:
            self.join(parts, trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove this rank's part after an exception."""
        if self._part is not None:
            with suppress(OSError):
                self._part.close()
            self._part = None
            remove_file(self._place)
