"""Photographs of people whose bodies and parts are labeled, in the forms they are published in."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
