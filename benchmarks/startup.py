"""How long Trimtab takes to answer, against the import of what it stands on.

    python -m benchmarks.startup [--rounds 7]

Goals: one loss at most 1.1 times ``import torch``, one network at most 1.2 times ``import torch,
torchvision``, and ``trimtab fit --help`` at most 1.3 times ``import lightning.pytorch``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.timing import interleaved_medians, print_ratios

# what is asked for, what it stands on, and how many times as long it may take
PAIRS = (
    (("-c", "from trimtab import CompSumLoss"), ("-c", "import torch"), 1.1),
    (("-c", "from trimtab import GGHLNetwork"), ("-c", "import torch, torchvision"), 1.2),
    (("-m", "trimtab", "fit", "--help"), ("-c", "import lightning.pytorch"), 1.3),
)


def main() -> None:
    """Run both of each pair in fresh processes, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds

    def run(command: tuple[str, ...]) -> None:
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)

    for asked, base, goal in PAIRS:
        name, baseline = (" ".join(part for part in c if part != "-c") for c in (asked, base))
        medians = interleaved_medians(
            {baseline: lambda base=base: run(base), name: lambda asked=asked: run(asked)}, rounds
        )
        title = f"Start-up, median of {rounds} interleaved runs"
        print_ratios(title, medians, baseline=baseline, goals={name: goal})


if __name__ == "__main__":
    main()
