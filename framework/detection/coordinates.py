"""Precisions that would round the places of boxes."""

from __future__ import annotations

from collections.abc import Sequence

from framework.objectives.errors import IncompatibleError

WHOLE_PIXELS = {"bf16-true": 256, "16-true": 2048}
"""Largest coordinate up to which every whole number is exact, by precision."""


def check_coordinates(
    precision: str, input_shape: Sequence[int] | None, is_moved: bool = False
) -> None:
    """Refuse a precision to which Lightning would round the corners of boxes with the images.

    Args:
        precision: The Trainer's precision.
        input_shape: (3, H, W) of an image, or None where it is not known.
        is_moved: Whether boxes are also compared in images of other sizes, such as those that were
            cut into tiles or resized.

    Raises:
        IncompatibleError: The precision rounds whole pixels.

    Example:
        >>> check_coordinates("bf16-mixed", (3, 640, 640))
        >>> check_coordinates("bf16-true", (3, 256, 256))
    """
    largest = WHOLE_PIXELS.get(precision)
    size = max((input_shape or (0, 0, 0))[1:])
    if largest is not None and (size > largest or is_moved):
        raise IncompatibleError(
            f"trainer.precision {precision} rounds places beyond {largest} pixels, and with them "
            f"the boxes of these images: use {precision.removesuffix('true')}mixed."
        )
