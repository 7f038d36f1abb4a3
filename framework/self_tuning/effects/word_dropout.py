"""Dropout of whole words at a tuned rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from framework.self_tuning.effects.dropping import RATE, drop
from framework.self_tuning.effects.layer_effect import LayerEffect
from framework.self_tuning.hyperparameter import HyperParameter


class WordDropout(LayerEffect):
    """Drops whole rows of an embedding, so that a word is missing everywhere in the batch.

    What is kept is divided by 1 - rate. All rows and ranks share the rate and the words. A decoder
    that is tied to the embedding keeps all words.

    Shapes: tokens of any shape int64; their embeddings (..., D).

    Paper: Gal and Ghahramani, arXiv:1512.05287; tuned as by MacKay et al., *Self-Tuning Networks*,
    ICLR 2019, arXiv:1903.03088.

    Args:
        layers: Pattern or patterns of the embeddings' dotted names; ``*`` means all.
        name: Prefix of the hyperparameter's name, ``NAME.rate``.
        rate: Rate, within (0, 1); all rows share it.

    Raises:
        ValueError: The range goes beyond; in ``attach``, a pattern that matches no embedding.

    Example:
        >>> import torch
        >>> from framework.self_tuning import Draws, WordDropout
        >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 4))
        >>> dropout = WordDropout()
        >>> dropout.attach(model)
        >>> with dropout.at({"rate": torch.tensor(0.5)}, Draws(seed=0, step=0)):
        ...     dropped = model(torch.arange(50)) == 0
        >>> bool((dropped.all(1) == dropped.any(1)).all()), bool(dropped.any())
        (True, True)
    """

    per_batch: ClassVar[bool] = True
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)

    def __init__(
        self,
        layers: str | list[str] = "*",
        name: str = "word_dropout",
        rate: HyperParameter = RATE,
    ) -> None:
        super().__init__(layers, name, {"rate": rate.within(f"{name}.rate", RATE, low=0, high=1)})

    def attach(self, model: nn.Module) -> None:
        """Find the embeddings and hook into them.

        Raises:
            ValueError: A pattern matches no embedding.
        """
        super().attach(model)
        for name, layer in self._attached.items():
            self._handles.append(layer.register_forward_hook(self._after(name)))

    def _after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def drop_words(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if self.active is None or self.draws is None or not layer.training:
                return output
            assert isinstance(layer, nn.Embedding)
            words = self.draws.one(self.stream(name), layer.num_embeddings, device=output.device)
            return drop(output, self.active["rate"], words[inputs[0]][..., None])

        return drop_words
