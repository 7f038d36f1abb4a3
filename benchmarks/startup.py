"""How long ``trimtab fit --help`` takes to answer, against ``import lightning.pytorch``.

    python -m benchmarks.startup [--rounds 7]

Goal: at most 1.3 times.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.timing import interleaved_medians, print_ratios


def main() -> None:
    """Run both in fresh processes, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)

    medians = interleaved_medians(
        {
            "import lightning.pytorch": lambda: run("-c", "import lightning.pytorch"),
            "trimtab fit --help": lambda: run("-m", "trimtab", "fit", "--help"),
        },
        rounds=arguments.rounds,
    )
    print_ratios(
        f"Start-up, median of {arguments.rounds} interleaved runs",
        medians,
        baseline="import lightning.pytorch",
        goals={"trimtab fit --help": 1.3},
    )


if __name__ == "__main__":
    main()
