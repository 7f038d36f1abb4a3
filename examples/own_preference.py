"""A preference between two losses that share a network, in a training loop of one's own."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from trimtab import EPO, CombinedStep, GradientCombiner, WeightedSum


class TwoTasks(nn.Module):
    """A narrow body whose features tell the digit and rebuild the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        self.digit = nn.Linear(4, 10)
        self.image = nn.Linear(4, 64)

    def losses(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return the two losses by name."""
        features = self.body(image)
        return {
            "digit": F.cross_entropy(self.digit(features), label),
            "image": F.mse_loss(self.image(features), image),
        }


def main(combiner: GradientCombiner | None = None, epochs: int = 10) -> dict[str, float]:
    """Return the two losses after training.

    The default leads to where the digit's loss equals ten times that of the image.
    """
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).flatten(1)
    labels = torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)

    network = TwoTasks()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    combined = CombinedStep(combiner or EPO(preference={"digit": 1.0, "image": 10.0}))
    for _ in range(epochs):
        for image, label in loader:
            losses = network.losses(image, label)
            # the body gets the combined gradient, the two heads the plain one
            loss = combined(losses, network.parameters(), shared=network.body.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return {name: float(value) for name, value in network.losses(images, labels).items()}


if __name__ == "__main__":
    print("plain sum: ", main(WeightedSum()))
    print("preference:", main())
