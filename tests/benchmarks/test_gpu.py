"""The benchmark of a GPU, on the pretended one."""

from __future__ import annotations

import warnings

import torch

from benchmarks import gpu
from tests.helpers.runs import ROOT
from tests.pretended_gpu.events import Recorder


def test_it_runs_on_the_pretended_gpu(capsys) -> None:
    with warnings.catch_warnings():
        gpu.main(["--device=pretended", "--steps=6", "nested"])
    said, titles, row = capsys.readouterr().out.splitlines()
    assert said == "pretended GPU: times are the CPU's"
    assert titles.split() == ["waits", "pinned", "ms", "a", "step", "ms", "bare", "ratio", "MiB"]
    name, waits, pinned, step, bare, ratio, memory = row.split()
    assert (name, waits, pinned) == ("nested", "0", "0")
    assert float(step) > 0 < float(bare)
    assert float(ratio) > 0 < float(memory)


def test_a_synchronizing_operation_is_noted_in_its_step_with_its_line() -> None:
    recorder = Recorder(ROOT)
    with gpu.noted_waits(recorder), recorder.phase("training step"):
        for _ in range(2):
            warnings.warn(f"{gpu.SYNCHRONIZING} (Triggered internally)", stacklevel=1)
        warnings.warn("anything else", stacklevel=1)
    (place,) = gpu.summary(recorder, None, 0).places["training step"]["wait"]
    assert place.count == 2
    assert place.where[0].startswith("tests/benchmarks/test_gpu.py:")
    assert not gpu.summary(recorder, None, 0).faults


def test_the_bare_network_goes_backward_from_all_that_it_returns() -> None:
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    gpu.differentiable([(2 * x, [3 * y]), {"a": x, "b": torch.arange(2)}]).backward()
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad.tolist(), y.grad.tolist()) == ([3, 3], [3, 3])
