"""Response layers that multiply their input by one weight, and then add one bias."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from framework.layers.response.layer import ResponseLayer


class ResponseProduct(ResponseLayer):
    """Base of response layers with one product of input and weight, such as a convolution.

    Class attributes:
        output_axis: Axis of an output with one place for each gate.
    """

    output_axis: ClassVar[int]

    @abstractmethod
    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        """Return what the ordinary layer computes with these parameters."""

    @abstractmethod
    def has_rows(self, input: Tensor) -> bool:  # noqa: A002
        """Return whether the first axis of an input is that of the samples."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Return the response of every row."""
        # an export would take len() for a constant
        h = self.seen(input.shape[0] if self.has_rows(input) else 1)
        if not self.has_rows(input):
            h = h.reshape(-1)
        base_bias = self._parameters.get("bias")
        if h.dim() == 1:
            bias = None if base_bias is None else self.effective("bias", h)
            return self.product(input, self.effective("weight", h), bias)
        y = self.product(input, self.get_parameter("weight"), base_bias)
        response = self.product(input, self.response("weight"), None)
        # no backward pass reads y, and in place it takes no more memory
        y = y.addcmul_(self._per_row(self.gate("weight", h), y), response)
        if base_bias is not None:
            bias = self.gate("bias", h) * self.response("bias")
            y = y.add_(self._per_row(bias, y))
        return y

    def _per_row(self, values: Tensor, output: Tensor) -> Tensor:
        """Return ``values`` (B, k) in the shape and dtype that broadcast over an output."""
        shape = [len(values)] + [1] * (output.dim() - 1)
        shape[self.output_axis] = values.shape[1]
        return values.to(output.dtype).view(shape)
