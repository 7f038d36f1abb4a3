"""LSTM whose weights respond to hyperparameters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from framework.layers.response.conditioning import Conditioning
from framework.layers.response.layer import ResponseLayer

State = tuple[Tensor, Tensor]


class ResponseLSTM(ResponseLayer, nn.LSTM):
    """LSTM whose maps of inputs and of hidden states are affine functions of hyperparameters h.

    Each map of each layer and direction has a response and 4H gates, in torch's order of gates
    (input, forget, cell, output). One h for all samples runs torch's own LSTM on the sum of both
    weights; one for each sample, a loop over time.

    Shapes: as ``nn.LSTM``, (T, B, C), (B, T, C) or (T, C); h (n,) or (B, n).

    Paper: MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088, appendix on LSTMs;
    ``hidden_mask``, Merity et al., arXiv:1708.02182.

    Attributes:
        hidden_mask: (4H, H) factor of the hidden-to-hidden weights and of their responses, in all
            layers and directions (DropConnect), or None; norms and folds leave it out.

    Args:
        input_size: Size C of an input.
        hidden_size: Size H of a state.
        conditioning: Holder of the hyperparameters.
        gate_scale: Standard deviation of the gates' parameters at the start.
        num_layers: Number of layers, one above the other.
        bias: Whether to learn biases.
        batch_first: Whether samples lie along the first axis, before time.
        dropout: Probability of a zero between layers, in training.
        bidirectional: Whether to run in both directions.
        device: Device of the parameters.
        dtype: Type of the parameters; gates are in float32 at least.

    Raises:
        TypeError: the input is a ``PackedSequence``.
        ValueError: the input has not as many samples as there are hyperparameters.

    Example:
        >>> import torch
        >>> from framework.layers import Conditioning, ResponseLSTM
        >>> layer = ResponseLSTM(3, 4, Conditioning(2), batch_first=True)
        >>> with layer.conditioning.at(torch.zeros(5, 2)):
        ...     output, (hidden, cell) = layer(torch.ones(5, 7, 3))
        >>> output.shape, hidden.shape
        (torch.Size([5, 7, 4]), torch.Size([1, 5, 4]))
    """

    ordinary = nn.LSTM
    hidden_mask: Tensor | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        conditioning: Conditioning,
        gate_scale: float = 0.01,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.start_response(conditioning, gate_scale)

    @staticmethod
    def check(layer: nn.Module, name: str) -> None:
        """Refuse projections of the states."""
        if isinstance(layer, nn.LSTM) and layer.proj_size:
            raise ValueError(
                f"The LSTM {name!r} has proj_size={layer.proj_size}, and projections have no "
                "response: exclude it, or set proj_size to 0."
            )

    def gated(self) -> list[str]:
        """Return the names of all weights and biases."""
        return list(self._flat_weights_names)

    def bound(self) -> float:
        """Return the largest entry of a new response: that of torch's LSTM."""
        return float(max(1, self.hidden_size) ** -0.5)

    def fold(self, h: Tensor) -> None:
        """Become an ordinary LSTM at ``h`` (n,), as the layer sees it."""
        super().fold(h)
        self.__dict__.pop("hidden_mask", None)
        self.flatten_parameters()

    def forward(  # type: ignore[override]
        self,
        input: Tensor | PackedSequence,  # noqa: A002  (torch's name)
        hx: State | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs, and the last hidden and cell states."""
        if isinstance(input, PackedSequence):
            raise TypeError(
                "ResponseLSTM takes no PackedSequence: pad the sequences "
                "(torch.nn.utils.rnn.pad_packed_sequence) and mask the outputs."
            )
        if input.dim() == 2:
            return self._one_sample(input, hx)
        rows = input.shape[0 if self.batch_first else 1]
        h = self.seen(rows)
        if hx is None:
            zeros = input.new_zeros(len(self._prefixes()), rows, self.hidden_size)
            hx = (zeros, zeros)
        self.check_forward_args(input, hx, None)
        # torch's LSTM refuses an empty batch
        if h.dim() == 1 and rows:
            return self._fused(input, hx, h)
        sequence = input.transpose(0, 1) if self.batch_first else input
        output, state = self._stepwise(sequence, hx, h.expand(rows, -1))
        return (output.transpose(0, 1) if self.batch_first else output), state

    def _one_sample(self, sequence: Tensor, hx: State | None) -> tuple[Tensor, State]:
        axis = 0 if self.batch_first else 1
        state = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        output, (hidden, cell) = self(sequence.unsqueeze(axis), state)
        return output.squeeze(axis), (hidden.squeeze(1), cell.squeeze(1))

    def _prefixes(self) -> list[str]:
        """Return the end of the parameters' names, for each layer and direction."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def _fused(self, x: Tensor, hx: State, h: Tensor) -> tuple[Tensor, State]:
        weights = [self.effective(name, h) for name in self._flat_weights_names]
        if self.hidden_mask is not None:
            mask = self.hidden_mask
            weights = [
                weight * mask.to(weight.dtype) if name.startswith("weight_hh") else weight
                for name, weight in zip(self._flat_weights_names, weights, strict=True)
            ]
        # cuDNN has no backward pass in evaluation mode, where hyperparameters learn
        dropout = self.dropout if self.training else 0.0
        options = (self.bias, self.num_layers, dropout, True, self.bidirectional, self.batch_first)
        with _scattered_weights() if x.is_cuda else nullcontext():
            output, hidden, cell = torch._VF.lstm(x, hx, weights, *options)
        return output, (hidden, cell)

    def _stepwise(self, x: Tensor, hx: State, h: Tensor) -> tuple[Tensor, State]:
        """Run all layers on a sequence (T, B, C) with one row of ``h`` for each sample."""
        states: list[State] = []
        prefixes, directions = self._prefixes(), 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                place = layer * directions + direction
                sequence = x.flip(0) if direction else x
                output, state = self._run(
                    prefixes[place], sequence, (hx[0][place], hx[1][place]), h
                )
                outputs.append(output.flip(0) if direction else output)
                states.append(state)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, (torch.stack([s[0] for s in states]), torch.stack([s[1] for s in states]))

    def _run(self, end: str, x: Tensor, state: State, h: Tensor) -> tuple[Tensor, State]:
        """Run one layer in one direction."""
        fixed = self._input_part(end, x, h)
        name = f"weight_hh_{end}"
        both: list[Tensor] = [self.get_parameter(name), self.response(name)]
        if self.hidden_mask is not None:
            both = [weight * self.hidden_mask.to(weight.dtype) for weight in both]
        w0, w1, gate = (t.to(fixed.dtype) for t in (*both, self.gate(name, h)))
        hidden, cell = state
        outputs = []
        for step in fixed.unbind(0):
            gates = torch.addcmul(step + F.linear(hidden, w0), gate, F.linear(hidden, w1))
            hidden, cell = _cell(gates, cell)
            outputs.append(hidden)
        return torch.stack(outputs), (hidden, cell.to(hidden.dtype))

    def _input_part(self, end: str, x: Tensor, h: Tensor) -> Tensor:
        """Return what inputs and biases add to the gates of one layer, for all times."""
        name = f"weight_ih_{end}"
        fixed = F.linear(x, self.get_parameter(name))
        response = F.linear(x, self.response(name))
        fixed = torch.addcmul(fixed, self.gate(name, h).to(fixed.dtype), response)
        for name in (f"bias_ih_{end}", f"bias_hh_{end}") if self.bias else ():
            gated = self.gate(name, h) * self.response(name)
            fixed = fixed + (self.get_parameter(name) + gated).to(fixed.dtype)
        return fixed


@contextmanager
def _scattered_weights() -> Iterator[None]:
    """Silence cuDNN's warning that weights are not one chunk of memory, as sums never are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single")
        yield


def _cell(gates: Tensor, cell: Tensor) -> State:
    """Return the next hidden and cell states, of all four gates before their nonlinearities."""
    i, f, g, o = gates.chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return (o.sigmoid() * cell.tanh()).to(gates.dtype), cell
