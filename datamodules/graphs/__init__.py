"""Graphs: citation networks, web pages, edge lists, and nearest neighbors of any features."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
