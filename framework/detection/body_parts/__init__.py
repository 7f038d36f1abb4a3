"""People and the parts of their bodies: what is known of them, association, metrics, pictures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
