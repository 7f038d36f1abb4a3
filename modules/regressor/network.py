"""A perceptron with a bottleneck, from a row of numbers to one or several predictions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from framework.layers.mlp import mlp_body


class RegressorNetwork(nn.Module):
    """An encoder to features and a decoder to predictions; ReLU after every hidden layer.

    Args:
        num_inputs: Number D of inputs.
        num_targets: Number T of targets.
        widths: Widths of the encoder's layers.
        bottleneck: Size of a linear layer, without ReLU, at the end of the encoder; None for no
            such layer.
        decoder_widths: Widths of the decoder's hidden layers.
    """

    def __init__(
        self,
        num_inputs: int,
        num_targets: int,
        widths: Sequence[int],
        bottleneck: int | None,
        decoder_widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.num_targets = num_targets
        self.encoder = mlp_body(num_inputs, widths)
        size = [num_inputs, *widths][-1]
        if bottleneck is not None:
            self.encoder.append(nn.Linear(size, bottleneck))
            size = bottleneck
        self.decoder = mlp_body(size, decoder_widths)
        self.head = nn.Linear([size, *decoder_widths][-1], num_targets)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions, (B,) or (B, T), and features (B, H)."""
        features = self.encoder(x)
        predictions = self.head(self.decoder(features))
        return predictions.squeeze(1) if self.num_targets == 1 else predictions, features
