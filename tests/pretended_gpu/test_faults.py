"""Each fault that a first run on the pretended GPU found, and what a step may cost since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torchmetrics import Metric

from tests.helpers.configs import arguments, one_of_many
from tests.helpers.runs import QUIET, ROOT, differences
from tests.pretended_gpu.autocast import cuda_autocast
from tests.pretended_gpu.bounds import pinned
from tests.pretended_gpu.configs import ON_ONE_PROCESS, measured
from tests.pretended_gpu.device import pretended_gpu
from tests.pretended_gpu.measure import ONE_GPU, run

NEEDED = {
    "classifier with/signals": 6,  # losses of the probe are sorted, and gradients compared
    "gghl with/preference": 2,  # the terms' gradients are compared on the CPU
    "paretoda": 2,
    "paretoda_mnist_usps": 2,
    "mfac": 2,  # whether the gradient is finite, and the matrix could be factored
    "classifier with/mfac": 2,
    "gns": 12,  # each try of a step is compared with its start
    "sae": 1,  # latents that are dead are counted
    "sae_mutual": 1,
    "sae_feature": 1,
    "sae with/sae_batchtopk": 1,
    "sae with/sae_matryoshka": 1,
    "sae with/sae_transcoder": 1,
    "paper/sae_smollm2": 1,
    "paper/paretoda_office31": 2,
    "paper/paretoda_visda": 2,
    "paper/constrained_svm": 14,  # the projection asks after each of its steps whether it is done
    "paper/depict_mnist_test": 2,  # the range of the first images, one of its two steps
}
"""Host waits that a training step cannot do without; no other config needs any."""
NEEDED_ON_TWO_RANKS = {"classifier": 0, "nested": 0, "gghl": 0, "coteaching": 2, "sae_mutual": 3}


@pytest.fixture
def algorithms_of_before(monkeypatch):
    """Undo what Lightning sets for good where it is asked for deterministic algorithms."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ON_ONE_PROCESS)
def test_no_more_waits_are_pinned_than_a_step_needs(name):
    assert pinned()[name]["waits"] <= NEEDED.get(name, 0)


@pytest.mark.parametrize("name", NEEDED_ON_TWO_RANKS)
def test_no_more_waits_are_pinned_than_two_ranks_need(name):
    assert pinned()[name]["rank_waits"] <= NEEDED_ON_TWO_RANKS[name]


UPGRAD = '{"class_path": "TorchJD", "init_args": {"aggregator": "UPGrad"}}'


@pytest.mark.parametrize(
    ("name", "extra", "waits"),
    [
        one_of_many("classifier with/preference", [], 2, quick=True),
        one_of_many("depict with/preference", [], 2, quick=False),
        one_of_many("classifier with/mesa with/preference", [], 2, quick=False),
        one_of_many("gghl", [f"--model.gradient_combiner={UPGRAD}"], 2, quick=False),
        one_of_many(
            "depict",
            ["--model.gradient_combiner=EPO", "--model.gradient_combiner.preference=[1, 1]"],
            2,
            quick=False,
        ),
        one_of_many("sae", ["--trainer.precision=bf16-mixed"], 1, quick=True),
        one_of_many("sae_mutual", ["--trainer.precision=bf16-mixed"], 1, quick=False),
        one_of_many("sae with/sae_gated", ["--trainer.precision=bf16-mixed"], 1, quick=False),
    ],
)
def test_waits_with_other_options(name, extra, waits, tmp_path, data_folder):
    found = measured(name, data_folder, tmp_path, extra, commands=["fit"])["fit"]
    assert found.error is None
    assert not found.faults
    assert len(found.steps["training step"]) > 2
    assert found.most("waits") <= waits


def test_fp16_with_a_fused_optimizer_is_refused_before_a_step(tmp_path, data_folder):
    extra = ["--trainer.precision=16-mixed"]
    found = measured("sae", data_folder, tmp_path, extra, commands=["fit"])["fit"]
    assert "set model.optimizer.fused to false, or use bf16-mixed" in (found.error or "")
    assert not found.steps.get("training step")


def fit(folder: Path, args: list[str], visible: int = 1, *callbacks: Callback) -> dict[str, Any]:
    """Fit on one of some visible devices, and return the last checkpoint."""
    args = ["fit", *args, *ONE_GPU, *QUIET, f"--run_folder={folder}"]
    with pretended_gpu(ROOT, count=visible) as gpu, cuda_autocast():
        assert run(args, gpu, callbacks) is None
    path = folder / "checkpoints" / "last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


class NoiseOfTheDevice(Callback):
    """Adds to the weights what the device's own generator draws, as a foreign dropout would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weight = next(pl_module.parameters())
        weight.data.add_(torch.randn_like(weight), alpha=0.01)


@pytest.mark.parametrize("visible", [1, 2])
def test_a_resumed_run_draws_the_same_where_more_devices_are_visible(visible, tmp_path):
    args = [*arguments("nested"), "--model.sigma=null", "--model.dropout=0.5"]
    args += ["--trainer.limit_val_batches=0", "--checkpoint.monitor=null"]
    noise = NoiseOfTheDevice()
    whole = fit(tmp_path / "whole", [*args, "--trainer.max_epochs=2"], 1, noise)
    fit(tmp_path / "parts", [*args, "--trainer.max_epochs=1"], 1, noise)
    resumed = [*args, "--trainer.max_epochs=2", "--ckpt_path=last"]
    parts = fit(tmp_path / "parts", resumed, visible, noise)
    assert parts["global_step"] == whole["global_step"] > 2
    assert not differences(parts["state_dict"], whole["state_dict"])


class TypesOfMetrics(Callback):
    """Notes the floating dtypes of the states of all metrics."""

    def __init__(self) -> None:
        self.found: set[torch.dtype] = set()

    def on_validation_end(self, trainer, pl_module):
        for metric in pl_module.modules():
            if isinstance(metric, Metric):
                states = [getattr(metric, name) for name in metric._defaults]
                tensors = [state for state in states if isinstance(state, torch.Tensor)]
                self.found |= {x.dtype for x in tensors if x.is_floating_point()}


@pytest.mark.parametrize(
    "name", [one_of_many(n, quick=n == "regressor") for n in ("regressor", "sae", "depict")]
)
def test_metrics_keep_their_precision_in_bf16(name, tmp_path, data_folder):
    types = TypesOfMetrics()
    args = [*arguments(name, data=data_folder), "--trainer.precision=bf16-true"]
    fit(tmp_path, args, 1, types)
    assert types.found
    assert types.found <= {torch.float32, torch.float64}


@pytest.mark.parametrize("name", [one_of_many(n, quick=n == "aggregate") for n in ON_ONE_PROCESS])
def test_every_config_adds_in_a_fixed_order(name, tmp_path, data_folder, algorithms_of_before):
    extra = ["--trainer.deterministic=true"]
    found = measured(name, data_folder, tmp_path, extra, commands=["fit"])["fit"]
    assert found.error is None
    assert not found.faults
    assert found.most("unordered") == 0
