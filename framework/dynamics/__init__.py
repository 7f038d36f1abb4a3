"""Training dynamics: what a run does on its way, and what kind of solution it reaches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
