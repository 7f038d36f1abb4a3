"""Photographs of faces: identities to train on, and pairs to verify, in their published forms."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
