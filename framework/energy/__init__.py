"""Energy-based models: densities up to a factor, noise to compare with, and their losses."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
