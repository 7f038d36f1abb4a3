"""Classification heads that train an embedding: softmax with and without margins, SFace."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
