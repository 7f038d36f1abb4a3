"""The network of a sparse autoencoder or transcoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.sparse_coding.selection import FeatureChoice, Selection, TokenChoice
from framework.sparse_coding.sparse_code import SparseCode, decode, encode_at
from framework.utilities.checks import check_at_least
from framework.utilities.precision import FullPrecision, at_least_float32
from modules.sae.activations import Activation, GatedReLU
from modules.sae.statistics import FiringStatistics, Thresholds

Code = SparseCode | Tensor


@dataclass(frozen=True)
class Encoding:
    """The code of a batch, and the tensors that it was made from.

    Args:
        code: Code (B, F), sparse or dense.
        centered: Input of the encoder, (B, d).
        pre_acts: Pre-activations (B, F); without gradient where the code is sparse.
    """

    code: Code
    centered: Tensor
    pre_acts: Tensor


class SparseAutoencoder(FullPrecision):
    """Writes an activation as a sparse non-negative sum of F learned directions.

    ``z' = (x - b_dec) @ W_enc.T + b_enc``; what ``selection`` keeps of z', above 0, is the code z,
    and ``z @ W_dec + b_dec`` the reconstruction. The rows of ``W_dec`` start uniformly on the unit
    sphere and are kept there, ``W_enc`` starts equal to them. Everything is computed in float32 at
    least, also under autocast: in half precision many entries tie at the edge of a selection.

    A transcoder (``d_out``) predicts another activation, takes the input as it is, and may add a
    linear map of it (``skip``). With ``groups`` the features are nested (Matryoshka): every prefix
    of the groups reconstructs on its own.

    Args:
        d_in: Size d of an activation.
        d_sae: Number F of features.
        selection: Rule or activation; default ``TokenChoice(32)``.
        d_out: Size of what a transcoder predicts; None for an autoencoder.
        skip: Whether a transcoder has the linear map.
        groups: Shares of the features, in order, with sum 1; empty for one group.
        horizon: Tokens after which an observation counts 1/e in the density of the features.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.selection import MutualChoice
        >>> from modules.sae.network import SparseAutoencoder
        >>> sae = SparseAutoencoder(d_in=8, d_sae=32, selection=MutualChoice(k=4))
        >>> code = sae.encode_batch(torch.randn(16, 8)).code
        >>> tuple(sae.decode(code).shape)
        (16, 8)

    Paper: Ayonrinde, arXiv:2411.02124, after Gao et al., arXiv:2406.04093. Transcoders are those of
    Dunefsky et al., arXiv:2406.11944; nested groups those of Bussmann et al., arXiv:2503.17547.
    """

    full_precision = ("input_scale", "output_scale")
    input_scale: Tensor
    output_scale: Tensor

    def __init__(
        self,
        d_in: int = 384,
        d_sae: int = 3072,
        selection: Selection | Activation | None = None,
        d_out: int | None = None,
        skip: bool = False,
        groups: Sequence[float] = (),
        horizon: float = 1e6,
    ) -> None:
        super().__init__()
        check_at_least(1, d_in=d_in, d_sae=d_sae, d_out=d_out)
        if skip and d_out is None:
            raise ValueError("skip adds a linear map to a transcoder; an autoencoder has no d_out.")
        if skip and isinstance(selection, GatedReLU):
            raise ValueError(
                "GatedReLU rebuilds its target from the gate alone: train without skip."
            )
        self.d_in = d_in
        self.d_sae = d_sae
        self.transcoder = d_out is not None
        self.d_out = d_in if d_out is None else d_out
        self.group_ends = _group_ends(groups, d_sae)
        directions = F.normalize(torch.randn(d_sae, self.d_out), dim=1)
        self.W_dec = nn.Parameter(directions)
        encoder = F.normalize(torch.randn(d_sae, d_in), dim=1) if self.transcoder else directions
        self.W_enc = nn.Parameter(encoder.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(self.d_out, d_in)) if skip else None
        self.selections = nn.ModuleList()
        self.add_selection(TokenChoice() if selection is None else selection)
        self.active = 0
        self.statistics = FiringStatistics(d_sae, horizon)
        self.thresholds = Thresholds(d_sae)
        # the size of what it is trained on, for export
        self.layernorm = False
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("output_scale", torch.ones(()))

    # ---- the rule in use ------------------------------------------------------------------------

    @property
    def selection(self) -> Selection | Activation:
        """The rule or activation in use."""
        return self.selections[self.active]  # type: ignore[return-value]

    def add_selection(self, selection: Selection | Activation) -> None:
        """Add a rule that ``switch`` may change to."""
        selection.setup(self.d_sae)
        self.selections.append(selection)

    def switch(self, number: int) -> None:
        """Go on with rule ``number``; feature choice ranks the features by measured density."""
        self.active = number
        if isinstance(self.selection, FeatureChoice):
            self.selection.assign(self.statistics.density())
        self.thresholds.reset()

    def get_extra_state(self) -> dict[str, int]:
        """Return which rule is in use, and whether inputs are standardized."""
        return {"active": self.active, "layernorm": int(self.layernorm)}

    def set_extra_state(self, state: Any) -> None:
        """Continue from ``get_extra_state``."""
        self.active = state["active"]
        self.layernorm = bool(state["layernorm"])

    @property
    def unit_norm(self) -> bool:
        """Whether the decoder's directions are kept at length 1."""
        return isinstance(self.selection, Selection) or self.selection.unit_norm

    @property
    def across_tokens(self) -> bool:
        """Whether a token's code depends on its batch, so that alone it needs thresholds."""
        return isinstance(self.selection, Selection) and self.selection.across_tokens

    # ---- encode and decode ----------------------------------------------------------------------

    def encode_batch(self, x: Tensor) -> Encoding:
        """Encode by the rule, as in training: over the whole batch, where it looks across tokens.

        Collective, for such a rule on several ranks.

        Args:
            x: Activations (B, d), in the size that the autoencoder was trained on.
        """
        selection = self.selection
        if isinstance(selection, Activation):
            return self._encode_densely(x, selection)
        return self._encode_at(x, selection.positions)

    def encode(self, x: Tensor) -> Code:
        """Encode every token on its own: by thresholds, where the rule looks across tokens."""
        if not self.across_tokens:
            return self.encode_batch(x).code
        return self._encode_at(x, self._above_thresholds).code

    def encode_dense(self, x: Tensor) -> Tensor:
        """Return ``encode`` as a matrix, (B, F)."""
        code = self.encode(x)
        return code.dense() if isinstance(code, SparseCode) else code

    def decode(self, code: Code, x: Tensor | None = None) -> Tensor:
        """Return the reconstruction, (B, d_out).

        Args:
            code: Code (B, F).
            x: Activations (B, d), for a transcoder with a linear map.
        """
        with _full_precision(self.W_dec):
            return self._mix(code) + self._base(x)

    def reconstructions(self, code: Code, x: Tensor | None = None) -> Tensor:
        """Return the reconstruction by every prefix of the groups, (G, B, d_out), all of them last.

        Args:
            code: Code (B, F).
            x: Activations (B, d), for a transcoder with a linear map.
        """
        if len(self.group_ends) == 1:
            return self.decode(code, x)[None]
        with _full_precision(self.W_dec):
            if isinstance(code, SparseCode):
                groups = (len(self.group_ends), code.pattern.shape[0], self.d_out)
                parts = self._mix(code.by_group(self.group_ends)).view(groups)
            else:
                parts = torch.stack([self._mix(part) for part in _split(code, self.group_ends)])
            # the sums one by one, as a cumulative sum has no fixed order on a GPU
            return torch.stack(list(accumulate(parts))) + self._base(x)

    def decode_without_bias(self, code: SparseCode) -> Tensor:
        """Return ``code @ W_dec``, what the code adds to a reconstruction."""
        with _full_precision(self.W_dec):
            return self._mix(code)

    def encode_again(self, encoding: Encoding, positions: Tensor) -> SparseCode:
        """Return the code of further entries of an encoded batch.

        Args:
            encoding: Encoding of the batch.
            positions: Positions in the flattened pre-activations, (n,), grouped by token.
        """
        weight, bias = at_least_float32(self.W_enc), at_least_float32(self.b_enc)
        return encode_at(encoding.centered, weight, bias, encoding.pre_acts, positions)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of every token on its own."""
        return self.decode(self.encode(x), x)

    def pre_activations(self, x: Tensor) -> Tensor:
        """Return ``z'``, (B, F), before anything is selected."""
        with _full_precision(self.W_enc):
            weight, bias = at_least_float32(self.W_enc), at_least_float32(self.b_enc)
            return F.linear(self._centered(x), weight, bias)

    def _centered(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        return x if self.transcoder else x - at_least_float32(self.b_dec)

    def _encode_at(self, x: Tensor, choose: Any) -> Encoding:
        with _full_precision(self.W_enc):
            centered = self._centered(x)
            weight, bias = at_least_float32(self.W_enc), at_least_float32(self.b_enc)
            with torch.no_grad():
                pre_acts = F.linear(centered, weight, bias)
            code = encode_at(centered, weight, bias, pre_acts, choose(pre_acts))
        return Encoding(code, centered, pre_acts)

    def _encode_densely(self, x: Tensor, activation: Activation) -> Encoding:
        with _full_precision(self.W_enc):
            centered, bias = self._centered(x), at_least_float32(self.b_enc)
            pre_acts = F.linear(centered, at_least_float32(self.W_enc), bias)
            return Encoding(activation(pre_acts, bias), centered, pre_acts)

    def _above_thresholds(self, pre_acts: Tensor) -> Tensor:
        return (pre_acts > self.thresholds.values()).flatten().nonzero().squeeze(1)

    def _mix(self, code: Code) -> Tensor:
        weight = at_least_float32(self.W_dec)
        return decode(code, weight) if isinstance(code, SparseCode) else code @ weight

    def _base(self, x: Tensor | None) -> Tensor:
        base = at_least_float32(self.b_dec)
        if self.W_skip is None:
            return base
        if x is None:
            raise ValueError("A transcoder with a linear map decodes with its input: give x.")
        return F.linear(at_least_float32(x), at_least_float32(self.W_skip), base)

    # ---- directions of length 1 -----------------------------------------------------------------

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Take from the gradient of ``W_dec`` what would only change the directions' lengths.

        Before it is clipped: lengths are restored after the step, and must not count in its norm.
        """
        gradient = self.W_dec.grad
        if self.unit_norm and gradient is not None:
            gradient.addcmul_(self.W_dec, -(gradient * self.W_dec).sum(1, keepdim=True))

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Set the length of every direction to 1, after an optimizer step."""
        if self.unit_norm:
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))


def active_per_token(code: Code) -> Tensor:
    """Return the number of active features of every token, (B,) int64."""
    return code.per_row() if isinstance(code, SparseCode) else (code > 0).sum(1)


def active_per_feature(code: Code) -> Tensor:
    """Return on how many tokens every feature is active, (F,) int64."""
    return code.per_feature() if isinstance(code, SparseCode) else (code > 0).sum(0)


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _group_ends(groups: Sequence[float], num_features: int) -> list[int]:
    """Return where the groups of features end."""
    if not groups:
        return [num_features]
    if min(groups) <= 0 or abs(sum(groups) - 1) > 1e-6:
        raise ValueError(f"groups must be positive shares with sum 1, got {list(groups)}.")
    ends, total = [], 0.0
    for share in groups:
        total += share
        ends.append(round(total * num_features))
    if len(set(ends)) < len(ends) or not ends[0]:
        raise ValueError(f"groups {list(groups)} of {num_features} features leave a group empty.")
    return ends


def _split(code: Tensor, ends: Sequence[int]) -> list[Tensor]:
    """Return the part of a dense code that belongs to each group, in the shape of the whole."""
    parts = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        parts.append(F.pad(code[:, start:end], (start, code.shape[1] - end)))
    return parts
