"""Oriented boxes and convex quadrilaterals: conversions, the coder of GGHL, overlap and NMS."""

from framework.ops.rotated.boxes import (
    cxcywhr_to_quad,
    cxcywhr_to_torchvision,
    is_convex,
    quad_area,
    quad_to_cxcywhr,
    torchvision_to_cxcywhr,
)
from framework.ops.rotated.iou import rotated_iou
from framework.ops.rotated.nms import rotated_nms
from framework.ops.rotated.orc import ORC, orc_to_quad, quad_to_orc

__all__ = [
    "ORC",
    "cxcywhr_to_quad",
    "cxcywhr_to_torchvision",
    "is_convex",
    "orc_to_quad",
    "quad_area",
    "quad_to_cxcywhr",
    "quad_to_orc",
    "rotated_iou",
    "rotated_nms",
    "torchvision_to_cxcywhr",
]
