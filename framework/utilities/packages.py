"""Packages that only some installations have."""

from __future__ import annotations

from importlib.util import find_spec


def require_package(package: str, extra: str, purpose: str) -> None:
    """Raise ``ModuleNotFoundError`` with the extra to install unless a package is there.

    Args:
        package: Name that is imported.
        extra: Extra of Trimtab that brings the package.
        purpose: Subject of the message, such as ``"ONNXExport"``.

    Example:
        >>> require_package("no_package", extra="onnx", purpose="ONNXExport")
        Traceback (most recent call last):
        ModuleNotFoundError: ONNXExport needs the package no_package: pip install 'trimtab[onnx]'.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{purpose} needs the package {package}: pip install 'trimtab[{extra}]'."
        )
