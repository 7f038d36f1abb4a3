"""XML that comes from a file: elements and text, or one line that says why not."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from framework.utilities.limits import check_size, memory_foreseen, open_file

_BYTES_PER_CHARACTER = 64
"""Bytes that a character of XML becomes at most, as elements of four."""


def read_xml(path: str | Path) -> ElementTree.Element:
    """Return the root of an XML file that declares no entities, which could be anything.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no XML, declares entities or attributes, or would take more memory than
            the limit.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.xml"
        >>> _ = path.write_text("<image><width>64</width></image>")
        >>> read_xml(path).findtext("width")
        '64'
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_declarations
    with open_file(path) as file, memory_foreseen(path):
        check_size(path, _BYTES_PER_CHARACTER * os.fstat(file.fileno()).st_size, "its elements")
        try:
            parser.Parse(file.read(), True)
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise ValueError(f"{path} is no XML: {error}.") from None
    return builder.close()


def _refuse_declarations(name: str, *place: str | bool | None) -> None:
    *_, has_declarations = place  # others would lie in a file elsewhere, which is not read
    if has_declarations:
        raise ValueError(f"its document type, {name[:40]!r}, declares entities or attributes")
