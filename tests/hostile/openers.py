"""Finds by the syntax tree every call in the project that opens a file or parses what one holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("framework", "modules", "datamodules", "callbacks")

ANY_OBJECT = {
    "open",
    "read_text",
    "read_bytes",
    "from_pretrained",
    "from_file",
    "load_checkpoint",
    "load_from_checkpoint",
}
"""Methods that open a file, whatever they are called of."""
NAMES = {
    "open",
    "FileIO",
    "fdopen",
    "memmap",
    "fromfile",
    "frombuffer",
    "loadtxt",
    "genfromtxt",
    "loadmat",
    "whosmat",
    "load_file",
    "safe_open",
    "load_svmlight_file",
    "read_csv",
    "read_parquet",
    "read_image",
    "decode_jpeg",
    "fetch_openml",
}
"""Functions that open a file, by name alone."""
OURS = {
    "open_file",
    "read_text",
    "read_json",
    "parse_json",
    "read_yaml",
    "read_xml",
    "yaml_text",
    "load_yaml",
    "check_yaml",
    "load_archive",
    "read_archive",
    "load_safetensors",
    "load_pickle",
    "load_sparse_rows",
    "read_npy",
    "map_npy",
    "read_arrays",
    "read_zip",
    "Unpacked",
}
"""Our own functions that open what they are given: who calls them is a reader, too."""
OF = {
    "torch": {"load"},
    "np": {"load"},
    "numpy": {"load"},
    "yaml": {"load", "safe_load", "full_load", "unsafe_load", "load_all", "safe_load_all"},
    "json": {"load", "loads"},
    "csv": {"reader", "DictReader"},
    "pickle": {"load", "loads", "Unpickler"},
    "h5py": {"File"},
    "zipfile": {"ZipFile"},
    "tarfile": {"TarFile"},
    "ElementTree": {"parse", "fromstring", "iterparse", "XML"},
    "parquet": {"read_table", "ParquetFile"},
    "sqlite3": {"connect"},
    "mmap": {"mmap"},
    "torchaudio": {"load"},
}
"""Functions that open or parse, by their module."""


def openers() -> Iterator[tuple[str, int, str]]:
    """Yield the function ``module:name``, the line and the call, of every call that opens."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield from _in(ast.parse(path.read_text()), module, [])


def _in(node: ast.AST, module: str, names: list[str]) -> Iterator[tuple[str, int, str]]:
    for child in ast.iter_child_nodes(node):
        inner = names
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = [*names, child.name]
        # also a function that is handed on, such as gzip.open in a table
        elif (isinstance(child, ast.Attribute | ast.Name)) and (called := _opens(child)):
            yield f"{module}:{'.'.join(names)}", child.lineno, called
        yield from _in(child, module, inner)


def _opens(node: ast.Attribute | ast.Name) -> str | None:
    if not isinstance(node.ctx, ast.Load):
        return None
    if isinstance(node, ast.Name):
        return node.id if node.id in NAMES | OURS else None
    base = node.value
    owner = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
    if node.attr in ANY_OBJECT | NAMES | OURS or node.attr in OF.get(owner, ()):
        return f"{owner}.{node.attr}"
    return None
