"""Oriented boxes and convex quadrilaterals: conversions, the coder of GGHL, overlap and NMS."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
