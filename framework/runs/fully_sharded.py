"""Training of which every rank holds a part of the parameters, gradients and optimizer states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from framework.objectives.errors import IncompatibleError
from framework.utilities.checks import check_at_least


class FullyShardedStrategy(DDPStrategy):
    """Splits parameters, gradients and optimizer states between the ranks by torch's FSDP2.

    A step sees whole parameters, gathered for it, and its result is that of DDP. The large elements
    of every ``Sequential`` and ``ModuleList`` are gathered one by one, when they are called, and
    everything else for the whole step; where a loss calls the network itself, as against attacks,
    everything is. A checkpoint is the file that DDP writes: one process, DDP and another number of
    ranks can go on from it.

    At the start each rank holds the whole model once; gradients and optimizer states never are
    whole. Evaluation without training is that of DDP. It runs on GPUs and on the CPU.

    Paper: Zhao et al., arXiv:2304.11277.

    Args:
        min_parameters: Number of parameters from which an element is gathered on its own; more
            where others read the parameters of an element, too.

    Raises:
        ValueError: ``min_parameters`` is below 0.
        IncompatibleError: The module is split since an earlier fit.

    Example:
        >>> strategy = FullyShardedStrategy(min_parameters=0)  # Trainer(strategy=strategy, ...)
        >>> strategy.min_parameters
        0
    """

    def __init__(self, min_parameters: int = 1_000_000) -> None:
        super().__init__()
        check_at_least(0, min_parameters=min_parameters)
        self.min_parameters = min_parameters

    # ---- set-up -------------------------------------------------------------------------------

    def setup(self, trainer: Trainer) -> None:
        """Set up as DDP does, unless parts of the module are elsewhere."""
        assert self.lightning_module is not None
        if any(isinstance(p, DTensor) for p in self.lightning_module.parameters()):
            raise IncompatibleError(
                f"{type(self.lightning_module).__name__} is split between the ranks since its "
                "training: go on with its checkpoint and a new module."
            )
        super().setup(trainer)

    def configure_ddp(self) -> None:
        """Split the module where DDP would wrap it: it is on its device, without an optimizer."""
        module = self.lightning_module
        assert module is not None
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.detach(), src=0)
        mesh = init_device_mesh(self.root_device.type, (dist.get_world_size(),))
        self.model = _Step(module)
        # a gradient inside the step would split a layer that the step still needs
        calls_itself = any("forward" in getattr(part, "needs", ()) for part in module.modules())
        for layer in () if calls_itself else large_elements(module, self.min_parameters):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    # ---- checkpoints --------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's whole state; a collective call, whose tensors rank 0 has."""
        assert self.lightning_module is not None
        return self._whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's whole state; a collective call, whose tensors rank 0 has."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return self._whole(optimizer.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the whole states of the optimizers, of which each rank takes its part."""
        states = []
        for optimizer, whole in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            numbers = [n for group in whole["param_groups"] for n in group["params"]]
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            # torch says it where they do not fit
            parameter_of = dict(zip(numbers, parameters, strict=False))
            parts = {
                number: {k: _part(v, parameter_of.get(number)) for k, v in values.items()}
                for number, values in whole["state"].items()
            }
            states.append({**whole, "state": parts})
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})

    def _whole(self, state: dict[str, Any]) -> dict[str, Any]:
        def gather(part: DTensor) -> Tensor | None:
            whole = part.full_tensor()
            return whole.cpu() if self.is_global_zero else None

        gathered: dict[str, Any] = tree_map_only(DTensor, gather, state)
        return gathered


class _Step(nn.Module):
    """Holds the module, so that what is gathered for a step is not for every call of ``forward``.

    Lightning calls the step by it, as by ``DistributedDataParallel``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def large_elements(module: nn.Module, min_parameters: int) -> Iterator[nn.Module]:
    """Yield the large elements of every ``Sequential`` and ``ModuleList``, the inner ones first.

    Args:
        module: Module that holds them.
        min_parameters: Number of parameters, without those of inner elements, of a large one.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        >>> list(large_elements(network, min_parameters=20))
        [Linear(in_features=4, out_features=4, bias=True)]
    """
    is_list = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        inner = list(large_elements(child, min_parameters))
        yield from inner
        taken = {id(p) for layer in inner for p in layer.parameters()}
        own = [p.numel() for p in child.parameters() if id(p) not in taken]
        if is_list and own and sum(own) >= min_parameters and not isinstance(child, nn.ModuleList):
            yield child


def _part(whole: Any, parameter: Any) -> Any:
    """Return this rank's part of a whole value of an optimizer, where its parameter is split."""
    if not isinstance(parameter, DTensor) or not isinstance(whole, Tensor):
        return whole
    if whole.shape != parameter.shape:
        return whole
    # every rank has read the file: nothing is sent
    whole = whole.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
