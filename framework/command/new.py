"""Writes the files of a new method into a checkout: what it is, its test, its config, its names."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from framework.command.plain_parser import PlainParser
from framework.utilities.files import write_text
from framework.utilities.nearest_names import nearest

PACKAGES = ("framework", "modules", "datamodules", "callbacks")
LONGEST = 24
"""Letters of a name with which every line of a template keeps to the line length."""


@dataclass(frozen=True)
class Kind:
    """A kind of method.

    Args:
        exports: Suffix of the class's name, by the package that exports the class.
        row: What the README's table says of it; None for a kind without a row.
        use: How the README's table says that it is used.
    """

    exports: dict[str, str]
    row: str | None = None
    use: str = "with/${name}"


KINDS = {
    "loss": Kind({"framework/losses": ""}, "loss"),
    "optimizer": Kind({"framework/optim": ""}, "optimizer"),
    "callback": Kind({"callbacks": ""}, "callback"),
    "metric": Kind({"framework/metrics": ""}),
    "domain": Kind({"modules": "", "datamodules": "Data"}, "module", "${name}"),
}


def main(args: Sequence[str]) -> None:
    """Write the files of a new method and print which.

    Args:
        args: Kind and name, such as ``["loss", "focal"]``.

    Raises:
        ValueError: The kind or the name is not valid, or the name is taken.
        FileNotFoundError: The current folder is not in a checkout of Trimtab.
    """
    parser = PlainParser("new", "Write the files of a new method.")
    parser.add_argument("kind", help=", ".join(KINDS))
    parser.add_argument("name", help="name of its files, such as sign_sgd")
    parser.add_argument("--class_name", help="name of its class, such as SignSGD")
    given = parser.parse_args(args)
    checked_class_name(given.kind, given.name, given.class_name)
    root = checkout(Path.cwd())
    texts = new_texts(root, given.kind, given.name, given.class_name)
    for path, text in texts.items():
        write_text(path, text)
        print(path.relative_to(root))  # noqa: T201
    print("Now replace what is marked TODO; CONTRIBUTING.md says how.")  # noqa: T201


def checkout(folder: Path) -> Path:
    """Return the checkout of Trimtab that a folder lies in.

    Raises:
        FileNotFoundError: There is none.
    """
    wanted = ("trimtab.py", "CONTRIBUTING.md", *PACKAGES)
    for root in (folder, *folder.parents):
        if all((root / name).exists() for name in wanted):
            return root
    raise FileNotFoundError(
        f"trimtab new writes into a checkout of Trimtab, which {folder} is not in."
    )


def new_texts(root: Path, kind: str, name: str, class_name: str | None = None) -> dict[Path, str]:
    """Return the text of every file that a new method adds or changes.

    Args:
        root: Folder of the checkout.
        kind: One of ``KINDS``.
        name: Name of its files, in snake_case.
        class_name: Name of its class; the default is made from ``name``.

    Raises:
        ValueError: The kind or a name is not valid, or a name is taken.
    """
    class_name = checked_class_name(kind, name, class_name)
    values = {"name": name, "class_name": class_name, "title": title(name)}
    texts = {}
    for path, template in templates(files("framework.command") / "templates" / kind):
        file = root / path.replace("NAME", name).removesuffix(".txt")
        if file.exists():
            raise ValueError(f"{path_in(root, file)} exists already; choose another name.")
        texts[file] = Template(template).substitute(values)
    for package, suffix in KINDS[kind].exports.items():
        stub = root / package / "__init__.pyi"
        texts[stub] = with_export(stub.read_text(), name, class_name + suffix)
    taken = exported_names(root)
    for suffix in KINDS[kind].exports.values():
        if place := taken.get(class_name + suffix):
            raise ValueError(f"{class_name}{suffix} is exported by {place} already.")
    if KINDS[kind].row is not None:
        readme = root / "README.md"
        texts[readme] = with_row(readme.read_text(), kind, values)
    return texts


def checked_class_name(kind: str, name: str, class_name: str | None) -> str:
    """Return the name of the class, by default the name of the file in CamelCase.

    Raises:
        ValueError: The kind or a name is not valid.

    Example:
        >>> checked_class_name("loss", "label_focal", None)
        'LabelFocalLoss'
    """
    if kind not in KINDS:
        raise ValueError(
            f"there is no kind {kind!r} among {', '.join(KINDS)}{nearest(kind, KINDS)}."
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ValueError(
            f"name must be a Python name in snake_case such as sign_sgd, got {name!r}."
        )
    if class_name is None:
        class_name = "".join(word.capitalize() for word in name.split("_"))
        if kind == "loss" and not class_name.endswith("Loss"):
            class_name += "Loss"
    elif not re.fullmatch(r"[A-Z][A-Za-z0-9]*", class_name) or keyword.iskeyword(class_name):
        raise ValueError(
            f"class_name must be a Python name in CamelCase such as SignSGD, got {class_name!r}."
        )
    for word in (name, class_name):
        if len(word) > LONGEST:
            raise ValueError(
                f"a name may have at most {LONGEST} letters, {word!r} has {len(word)}."
            )
    return class_name


def templates(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path below ``folder`` and the text of every template."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from templates(entry, f"{above}{entry.name}/")
        elif entry.name.endswith(".txt"):
            yield above + entry.name, entry.read_text()


def with_export(stub: str, name: str, class_name: str) -> str:
    r"""Return a package's stub with one more name, in the order of the linter.

    Example:
        >>> with_export("from .lion import LionK as LionK\n", "adam", "Adam").splitlines()
        ['from .adam import Adam as Adam', 'from .lion import LionK as LionK']
    """
    lines = stub.splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith("from .")]
    after = [i for i in places if lines[i].split()[1] > f".{name}"]
    place = after[0] if after else len(lines)
    line = f"from .{name} import {class_name} as {class_name}"
    return "\n".join([*lines[:place], line, *lines[place:], ""])


def exported_names(root: Path) -> dict[str, str]:
    """Return every exported name with the package that exports it."""
    stubs = [stub for package in PACKAGES for stub in (root / package).rglob("__init__.pyi")]
    return {
        name: path_in(root, stub.parent)
        for stub in sorted(stubs)
        for name in re.findall(r" as (\w+),?$", stub.read_text(), re.M)
    }


def with_row(readme: str, kind: str, values: dict[str, str]) -> str:
    """Return the README with one more row in the table of methods.

    Raises:
        ValueError: The README has no such table.
    """
    table = re.search(r"^\| Method \|.*\n(?:\|.*\n)+", readme, re.M)
    if table is None:
        raise ValueError("README.md has no table that begins with '| Method |'.")
    use = Template(KINDS[kind].use).substitute(values)
    paper = "[0000.00000](https://arxiv.org/abs/0000.00000)"
    row = f"| {values['title']} | `{use}` | {KINDS[kind].row}: TODO | {paper} |\n"
    return readme[: table.end()] + row + readme[table.end() :]


def title(name: str) -> str:
    """Return a name as words.

    Example:
        >>> title("label_focal")
        'Label focal'
    """
    return name.replace("_", " ").capitalize()


def path_in(root: Path, path: Path) -> str:
    """Return a path below ``root`` with forward slashes."""
    return path.relative_to(root).as_posix()
