"""The bytes that a step of each method communicates, and what they take on many GPUs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.communication import CountedTraffic, Traffic, mean_traffic
from benchmarks.network import Network, extrapolate
from benchmarks.ranks import call_on_ranks

GOAL = 0.9
FEW, MANY = 2, 4
"""Numbers of ranks on which bytes are counted."""


@dataclass
class Method:
    """A command whose steps are counted.

    Args:
        rows: Rows of a rank.
        configs: What is laid over what, without ``configs/``.
        args: Further arguments, in which ``{ranks}`` stands for their number.
    """

    rows: int
    configs: str
    args: str = ""


# without batch norm, whose statistics would be counted with what a method sends
MLP = "--model.backbone=mlp "
CALLBACK = "--trainer.callbacks+="
SAF = f"{MLP} {CALLBACK}SAF --trainer.callbacks.lag_epochs=1 --trainer.callbacks.start_epoch=0 "
STORAGE = "--trainer.callbacks.storage="
ACTIVATIONS = "--data=ActivationFile --data.path={folder}/activations.npy --data.val_size=512"
SCENES = "--data.num_train=180 --data.num_val=4 --data.num_test=4"

METHODS: dict[str, Method] = {
    "resnet18": Method(64, "classifier", "--model.backbone=resnet18"),
    "classifier": Method(64, "classifier", MLP),
    "saf, memmap": Method(64, "classifier", f"{SAF}{STORAGE}memmap"),
    "saf, exchange": Method(64, "classifier", f"{SAF}{STORAGE}exchange"),
    "saf, cpu": Method(64, "classifier", f"{SAF}{STORAGE}cpu --data.shards={{ranks}}"),
    "saf, device": Method(64, "classifier", f"{SAF}{STORAGE}device --data.shards={{ranks}}"),
    "mesa": Method(64, "classifier", f"{MLP}{CALLBACK}MESA --trainer.callbacks.start_epoch=0"),
    "aldr": Method(64, "classifier with/aldr", MLP),
    "ensloss": Method(64, "classifier with/ensloss", MLP),
    "normalized_logistic": Method(64, "classifier with/normalized_logistic", MLP),
    "adversarial": Method(64, "adversarial"),
    "nested": Method(64, "nested"),
    "coteaching": Method(64, "coteaching", "--model.warmup_epochs=1"),
    "csib": Method(32, "csib"),
    "aggregate": Method(60, "aggregate"),
    "depict": Method(
        64,
        "depict",
        "--trainer.max_epochs=4 --model.phase_epochs=[1,1,1] --model.init_options.n_init=2",
    ),
    "paretoda": Method(64, "paretoda"),
    "gghl": Method(4, "gghl", SCENES),
    "gghl, preference": Method(4, "gghl with/preference", SCENES),
    "sae": Method(768, "sae", ACTIVATIONS),
    "sae, BatchTopK": Method(768, "sae with/sae_batchtopk", ACTIVATIONS),
    "sae_mutual": Method(768, "sae_mutual", ACTIVATIONS),
    "sae_feature": Method(768, "sae_feature", ACTIVATIONS),
}


def count_all(names: list[str], ranks: int, folder: str) -> dict[str, list[Traffic]]:
    """Return what this rank sends in the steps of each method."""
    import trimtab

    trimtab.import_configurable_classes()
    traffic = {}
    for name in names:
        sys.stderr.write(f"{name}, rank {os.environ['RANK']} of {ranks}\n")
        traffic[name] = count(name, ranks, folder)
    return traffic


def count(name: str, ranks: int, folder: str) -> list[Traffic]:
    """Fit on this rank, and return the traffic of the last epoch's steps but its last one.

    A step's is what is sent from a batch's start to the next one's.
    """
    from lightning.pytorch import Callback

    from framework.command import cli

    counted = CountedTraffic()

    class Steps(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, place: int) -> None:
            taken = counted.take()
            if place == 0:
                self.steps: list[Traffic] = []
            else:
                self.steps.append(taken)

    steps, method = Steps(), METHODS[name]
    args = ["fit", *(f"--config={config}" for config in method.configs.split())]
    args += ["--trainer.max_epochs=2", "--trainer.limit_train_batches=4"]
    args += ["--trainer.limit_val_batches=0", "--checkpoint.monitor=null"]
    args += ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
    args += [f"--trainer.devices={ranks}", "--trainer.enable_progress_bar=false"]
    args += ["--trainer.enable_model_summary=false", f"--run_folder={folder}/{ranks}/{name}"]
    args += method.args.format(ranks=ranks, folder=folder).split()
    # last, as another class of data begins with its own
    args += [f"--data.batch_size={method.rows * ranks}"]
    with counted:
        cli.run(args, [steps])
    return steps.steps


def print_bytes(names: list[str], network: Network, gpus: list[int]) -> None:
    """Count each method's bytes, and print them and what follows for many GPUs."""
    import numpy as np

    measured: dict[str, dict[int, dict[str, tuple[float, float]]]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).standard_normal((14_000, 384), dtype=np.float32)
        np.save(f"{folder}/activations.npy", rows)
        for ranks in (FEW, MANY):
            counted = call_on_ranks(ranks, count_all, names, ranks, folder)
            for name in names:
                steps = [step for own in counted for step in own[name]]
                measured[name][ranks] = mean_traffic(steps)
    print(f"\n## Bytes that a rank hands to collectives in a step, {FEW} / {MANY} ranks\n")
    print("| | rows per rank | DDP's gradients | all other | by kind |")
    print("| --- | --- | --- | --- | --- |")
    for name, by_ranks in measured.items():
        print(byte_row(name, by_ranks))
    print("\n## Limit on many GPUs: milliseconds per step on the way\n")
    heads = [f"{kind}, {n}" for n in gpus for kind in ("gradients", "all other")]
    heads += [f"shortest step at {GOAL}, {n}" for n in gpus]
    print(f"| | {' | '.join(heads)} |\n|{' --- |' * (len(heads) + 1)}")
    for name, by_ranks in measured.items():
        print(limit_row(name, by_ranks, network, gpus))


def byte_row(name: str, by_ranks: Mapping[int, Mapping[str, tuple[float, float]]]) -> str:
    """Return a method's row of bytes; calls stand in parentheses."""

    def both(kinds: list[str]) -> str:
        sent = [sum(by_ranks[n].get(kind, (0, 0))[0] for kind in kinds) for n in (FEW, MANY)]
        return f"{sent[0]:,.0f}" if sent[0] == sent[1] else " / ".join(f"{x:,.0f}" for x in sent)

    kinds = sorted({kind for traffic in by_ranks.values() for kind in traffic} - {"gradients"})
    each = [f"{kind} {both([kind])} ({by_ranks[FEW].get(kind, (0, 0))[1]:g})" for kind in kinds]
    gradients, others = both(["gradients"]), both(kinds)
    return f"| {name} | {METHODS[name].rows} | {gradients} | {others} | {', '.join(each)} |"


def limit_row(
    name: str,
    by_ranks: Mapping[int, Mapping[str, tuple[float, float]]],
    network: Network,
    gpus: list[int],
) -> str:
    """Return a method's row of times; nothing is taken to overlap with computing."""
    cells, shortest = [], []
    for ranks in gpus:
        seconds = {"gradients": 0.0, "others": 0.0}
        for kind in {kind for traffic in by_ranks.values() for kind in traffic}:
            sent, calls = (
                extrapolate({n: by_ranks[n].get(kind, (0, 0))[i] for n in by_ranks}, ranks)
                for i in (0, 1)
            )
            place = kind if kind == "gradients" else "others"
            seconds[place] += network.seconds(kind, sent, calls, ranks)
        cells += [f"{1e3 * value:.3f}" for value in seconds.values()]
        shortest.append(f"{1e3 * sum(seconds.values()) * GOAL / (1 - GOAL):.1f}")
    return f"| {name} | {' | '.join([*cells, *shortest])} |"
