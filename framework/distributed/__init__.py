"""Collectives, memory per sample and checks across ranks; without a process group, of one rank."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
