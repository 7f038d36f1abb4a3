"""An image file's content in memory, which is decoded as a file is."""

from __future__ import annotations

import io
from dataclasses import dataclass

from framework.utilities.limits import RegularFile


@dataclass(frozen=True)
class EncodedImage:
    """What an image file would hold, under a name for messages.

    Args:
        name: Where it comes from, such as ``train.rec, record 5``.
        content: Bytes of a JPEG, a PNG or another format of images.

    Example:
        >>> image = EncodedImage("train.rec, record 5", b"abc")
        >>> str(image), image.open().read()
        ('train.rec, record 5', b'abc')
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name

    def open(self) -> RegularFile:
        """Open the content for reading."""
        return _MemoryFile(self.content)


class _MemoryFile(RegularFile):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._size = len(content)

    @property
    def size(self) -> int:
        return self._size
