"""What CS-IB does on tables beside squared error: R2 after the last epoch and at the best one.

    python -m benchmarks.csib_tables --data FOLDER [--airfoil FILE] [--seeds 3] [--epochs 100]

FOLDER holds the UCI sets ``uci/<set>/data/data.txt``; FILE is UCI's airfoil self-noise, as a table
with the target in its last column. The network, optimizer and batches are those of
``configs/csib.yaml``, in a plain loop; each seed holds out another fifth of the rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.experiment import mean_and_sd, parser

if TYPE_CHECKING:
    from torch import nn


def arms() -> dict[str, Callable[[], nn.Module]]:
    """Return the losses that are compared."""
    from torch import nn

    from framework.losses import CSIBLoss

    return {
        "squared error": nn.MSELoss,
        "**CS-IB**": CSIBLoss,
        "CS-IB, sigma_x the median": lambda: CSIBLoss(sigma_x="median"),
        "squared error + 0.01 I": lambda: CSIBLoss(prediction="mse"),
        "paper's form, sigma_x 1": lambda: CSIBLoss(sigma_x=1.0, denominator="square_of_sum"),
        "paper's form, sigma_x 0.3": lambda: CSIBLoss(sigma_x=0.3, denominator="square_of_sum"),
    }


def train(source: str, loss: nn.Module, seed: int, epochs: int) -> list[float]:
    """Return the R2 of the held-out rows after the last epoch, and the best of any epoch."""
    import torch

    from datamodules.tabular import Tabular
    from modules.regressor.network import RegressorNetwork

    data = Tabular(source=source, val_size=0.2, test_size=0, split_seed=seed)
    data.setup("fit")
    assert data.train_set is not None
    assert data.val_set is not None
    (x, y), (x_val, y_val) = (
        (part.dataset[:]["input"][part.indices], part.dataset[:]["target"][part.indices])
        for part in (data.train_set, data.val_set)
    )
    torch.manual_seed(seed)
    network = RegressorNetwork(x.shape[1], 1, (128, 128), 32, (128,))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    scores = []
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            predictions, features = network(x[rows])
            available = {"inputs": x[rows], "features": features}
            needs = {name: available[name] for name in getattr(loss, "needs", ())}
            optimizer.zero_grad()
            loss(predictions, y[rows], **needs).backward()
            optimizer.step()
        with torch.no_grad():
            left = (network(x_val)[0] - y_val).square().sum()
        scores.append(float(1 - left / (y_val - y_val.mean()).square().sum()))
    return [scores[-1], max(scores)]


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=3)
    command.add_argument("--airfoil", help="table of the airfoil self-noise set")
    command.add_argument("--epochs", type=int, default=100)
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    warnings.filterwarnings("ignore", message=".*the paper's form of the divergence")
    tables = {"diabetes": "diabetes"}
    if arguments.airfoil:
        tables["airfoil"] = arguments.airfoil
    for name in ("energy", "concrete"):
        tables[name] = f"{arguments.data}/uci/{name}/data/data.txt"
    print("R2 after the last epoch / of the best\n\n| | " + " | ".join(tables) + " |")
    print("|" + " --- |" * (len(tables) + 1), flush=True)
    for arm, build in arms().items():
        cells = []
        for source in tables.values():
            runs = [
                train(source, build(), seed, arguments.epochs) for seed in range(arguments.seeds)
            ]
            cells.append(" / ".join(mean_and_sd(column) for column in zip(*runs, strict=True)))
        print(f"| {arm} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
