"""What ``--model.compile true`` does to each config: python -m benchmarks.compile [CONFIG ...].

Prints how many graphs the networks became, how often a graph was broken, and how far parameters are
from those of the run that is not compiled, after eight steps in float64 on the sizes of the tests.
``--backend aot_eager`` traces forward and backward pass and compiles neither, which takes seconds
where the compiler takes minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from framework.objectives.errors import IncompatibleError
from tests.conftest import write_small_data
from tests.helpers.compilation import backend
from tests.helpers.configs import DOMAINS, arguments
from tests.helpers.runs import fit, largest_difference

STEPS = ["--trainer.max_steps=8", "--trainer.precision=64-true", "--trainer.logger=false"]


def row(config: str, compiler: str) -> str:
    """Return one line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_small_data(data)
        args = [*arguments(config, data=data), *STEPS]
        args += ["--model.optimizer=SGD", "--model.optimizer.lr=0.05"]
        eager = fit([*args, f"--run_folder={folder}/eager"])
        torch._dynamo.reset()
        counters.clear()
        try:
            with backend(compiler):
                compiled = fit([*args, "--model.compile=true", f"--run_folder={folder}/compiled"])
        except IncompatibleError as error:
            return f"| `{config}` | refused: {error} | | | |"
    gap = largest_difference(eager.parameters, compiled.parameters)
    graphs = counters["stats"]["unique_graphs"]
    breaks = sum(counters["graph_break"].values())
    return f"| `{config}` | {compiler} | {graphs} | {breaks} | {gap:.1e} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", default=DOMAINS, metavar="CONFIG")
    parser.add_argument("--backend", default="inductor", choices=["inductor", "aot_eager"])
    chosen = parser.parse_args()
    print("| Config | Compiler | Graphs | Breaks | Largest difference |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for config in chosen.configs:
        print(row(config, chosen.backend), flush=True)


if __name__ == "__main__":
    main()
