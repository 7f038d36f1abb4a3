"""A function that compiled code calls as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.utilities.graph_operation import graph_operation


def empty(x: Tensor, seed: int) -> Tensor:
    """Return a tensor like the noise."""
    return torch.empty_like(x)


@graph_operation(empty)
def noise(x: Tensor, seed: int) -> Tensor:
    """Draw by a generator, which no graph can hold."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))


def test_a_function_is_one_operation_of_a_graph() -> None:
    seen: list[list[str]] = []

    def note(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        seen.append([str(node.target) for node in graph.graph.nodes])
        return graph

    step = torch.compile(lambda x: noise(x, 3) + 1, backend=note, fullgraph=True)
    x = torch.zeros(4)
    assert torch.equal(step(x), noise(x, 3) + 1)
    assert [name for name in seen[0] if "noise" in name] == [
        "trimtab.tests_framework_utilities_test_graph_operation_noise.default"
    ]
