"""DropConnect of recurrent weights at a tuned rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from framework.layers.response.lstm import ResponseLSTM
from framework.self_tuning.draws import Draws
from framework.self_tuning.effects.dropping import RATE, drop
from framework.self_tuning.effects.layer_effect import LayerEffect
from framework.self_tuning.hyperparameter import HyperParameter


class DropConnect(LayerEffect):
    """Drops hidden-to-hidden weights of LSTMs, the same for all rows, ranks and times of a step.

    What is kept is divided by 1 - rate. One mask holds for the weights and for their responses, and
    for all layers and directions of one LSTM; different LSTMs have different masks.

    Paper: Merity et al., *Regularizing and Optimizing LSTM Language Models*, arXiv:1708.02182;
    tuned as by MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088.

    Args:
        layers: Pattern or patterns of the LSTMs' dotted names; ``*`` means all.
        name: Prefix of the hyperparameter's name, ``NAME.rate``.
        rate: Rate, within (0, 1); all rows share it.

    Raises:
        ValueError: The range goes beyond; in ``attach``, a pattern that matches no LSTM; in a step,
            an LSTM that was not converted.

    Example:
        >>> import torch
        >>> from framework.layers import Conditioning, ResponseLSTM
        >>> from framework.self_tuning import DropConnect, Draws
        >>> model = nn.ModuleDict({"lstm": ResponseLSTM(2, 3, Conditioning(1))})
        >>> effect = DropConnect()
        >>> effect.attach(model)
        >>> with effect.at({"rate": torch.tensor(0.5)}, Draws(seed=0, step=0)):
        ...     sorted(set(model["lstm"].hidden_mask.flatten().tolist()))
        [0.0, 2.0]
    """

    per_batch: ClassVar[bool] = True
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.LSTM,)

    def __init__(
        self,
        layers: str | list[str] = "*",
        name: str = "drop_connect",
        rate: HyperParameter = RATE,
    ) -> None:
        super().__init__(layers, name, {"rate": rate.within(f"{name}.rate", RATE, low=0, high=1)})

    @contextmanager
    def at(self, values: Mapping[str, Tensor], draws: Draws) -> Iterator[None]:
        """Let the LSTMs that are in training mode run without the dropped weights inside the block.

        Raises:
            ValueError: An LSTM was not converted into one that responds.
        """
        own: list[tuple[ResponseLSTM, Tensor | None]] = []
        with super().at(values, draws):
            try:
                for name, layer in self._attached.items():
                    if not isinstance(layer, ResponseLSTM):
                        raise ValueError(
                            f"{self.name} drops weights of the LSTM {name!r}, which does not "
                            "respond to hyperparameters: include it in the conversion."
                        )
                    if layer.training:
                        own.append((layer, layer.hidden_mask))
                        layer.hidden_mask = self._mask(name, layer, draws)
                yield
            finally:
                for layer, mask in own:
                    layer.hidden_mask = mask

    def _mask(self, name: str, layer: ResponseLSTM, draws: Draws) -> Tensor:
        assert self.active is not None
        size, device = layer.hidden_size, layer.get_parameter("weight_hh_l0").device
        noise = draws.one(self.stream(name), 4 * size, size, device=device)
        return drop(torch.ones_like(noise), self.active["rate"], noise)
