"""Every config and overlay, with what the tests shrink: a new config is covered by being there.

`make test` takes one config per module class, and one overlay per kind of state; the marker
``combination`` leaves the others to `make test-all`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers.runs import CONFIGS, ROOT

SHRINK = ROOT / "tests" / "shrink"


def name_of(path: Path) -> str:
    """Return a config's name, such as ``classifier`` or ``with/saf``."""
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


SYSTEMS = sorted(name_of(p) for p in CONFIGS.glob("*.yaml"))
PAPERS = sorted(name_of(p) for p in (CONFIGS / "paper").glob("*.yaml"))
OVERLAYS = sorted(name_of(p) for p in (CONFIGS / "with").glob("*.yaml"))


def tier(name: str) -> str:
    """Return what a config's header says: fast or slow."""
    said = header(name, "tier")
    assert said, f"{name}.yaml names no tier"
    return said


def header(name: str, key: str) -> str | None:
    """Return what the line ``# key: word`` at the top of a config says, or None."""
    found = re.search(rf"^# {key}: (\w+)$", (CONFIGS / f"{name}.yaml").read_text(), re.M)
    return found.group(1) if found else None


TERMS = {name: term for name in OVERLAYS if (term := header(name, "term"))}
"""What an overlay must add to the terms of the steps that are compared."""


def base_of(overlay: str) -> str:
    """Return the system that an overlay is laid over in the tests of a single one."""
    return header(overlay, "over") or "classifier"


def module_class(system: str) -> str:
    """Return the class of a config's module."""
    return yaml.safe_load((CONFIGS / f"{system}.yaml").read_text())["model"]["class_path"]


# configs of an optimizer or of a loss, whose module is that of another one
OF_METHODS = {"gns", "mfac", "rss", "sso", "sso_convex"}
# per class of modules the config with the shortest name, such as sae before sae_mutual
DOMAINS = list(
    {
        module_class(name): name
        for name in sorted(
            SYSTEMS, key=lambda name: (name in OF_METHODS, len(name), name), reverse=True
        )
    }.values()
)
# heads of embeddings, of which sface and curricularface differ most from that of the config
HEADS = {
    "with/adaface",
    "with/arcface",
    "with/magface",
    "with/normface",
    "with/softmax",
    "with/sphereface",
    "with/subcenter",
    "with/unpg",
}
# overlays without a state, or whose kind of state another one shows
SHOWN_ELSEWHERE = HEADS | {
    "with/compsum",
    "with/curricularface",
    "with/metrix",
    "with/sface",
    "with/depict_square",
    "with/ensloss",  # with accumulated batches
    "with/gghl_class",
    "with/gghl_mesa",
    "with/gghl_selftuning",
    "with/ldr",
    "with/lion",  # by the contract of optimizers
    "with/noise",
    "with/normalized_logistic",
    "with/pgd_eval",
    "with/probe",
    "with/sae_gated",
    "with/sae_jumprelu",  # its thresholds are parameters
    "with/sae_l1",
    "with/sae_matryoshka",
    "with/sae_transcoder",
    "with/sharded",  # by with/partial
    "with/signals",
    "with/sso",
}

# overlays that change what another one changes, in the same kind of module
ALIKE = HEADS | {
    "with/compsum",
    "with/curricularface",
    "with/ddp",  # on two ranks every module is in the tests of parity
    "with/depict_square",  # refused as a head of embeddings is
    "with/ensloss",
    "with/fsdp2",
    "with/gghl_class",
    "with/gghl_mesa",
    "with/gghl_selftuning",
    "with/ldr",
    "with/lion",  # an optimizer, as M-FAC is
    "with/metrix",
    "with/normalized_logistic",
    "with/partial",
    "with/refined",
    "with/sae_gated",
    "with/sae_jumprelu",
    "with/sae_l1",
    "with/sae_matryoshka",
    "with/sae_transcoder",
    "with/sface",
    "with/sharded",
    "with/sso",  # which modules it refuses is tested with the replays
    "with/wandb",
}


def one_of_many(*values: object, quick: bool, system: str | None = None) -> object:
    """Return a test parameter that `make test` runs or leaves to `make test-all`.

    Args:
        *values: what the test is called with.
        quick: it belongs to `make test`.
        system: a config whose own tier may be slow.
    """
    marks = [] if quick else [pytest.mark.combination]
    if system is not None and tier(system) != "fast":
        marks.append(pytest.mark.slow)
    return pytest.param(*values, marks=marks)


def systems(*chosen: str) -> list[object]:
    """Return one test parameter per config.

    Args:
        *chosen: those that belong to `make test`; default one per module class.
    """
    quick = chosen or tuple(DOMAINS)
    return [one_of_many(name, quick=name in quick, system=name) for name in SYSTEMS]


def overlays(*without: str) -> list[object]:
    """Return one test parameter per overlay but some, for what may break the state of a method."""
    names = [name for name in OVERLAYS if name not in without]
    return [one_of_many(name, quick=name not in SHOWN_ELSEWHERE) for name in names]


def kinds_of_overlays() -> list[object]:
    """Return one test parameter per overlay, for what depends on what it changes alone."""
    return [one_of_many(name, quick=name not in ALIKE) for name in OVERLAYS]


def arguments(system: str, *overlays: str, data: Path | None = None) -> list[str]:
    """Return the command line of a system with overlays, each shrunk where the tests say so.

    Args:
        system: name of the config.
        overlays: names of overlays.
        data: root folder for a config that reads one.
    """
    files = [CONFIGS / f"{system}.yaml", SHRINK / f"{system}.yaml"]
    for overlay in overlays:
        # a list such as the callbacks cannot be shrunk in part, so its file replaces the overlay
        shrunk = SHRINK / f"{overlay}.yaml"
        files.append(shrunk if shrunk.is_file() else CONFIGS / f"{overlay}.yaml")
    args = [f"--config={file}" for file in files if file.is_file()]
    text = (CONFIGS / f"{system}.yaml").read_text()
    if data is not None:
        config = {"data": yaml.safe_load(text).get("data", {})}
        small = SHRINK / f"{system}.yaml"
        shrunk = yaml.safe_load(small.read_text()) if small.is_file() else None
        args += [f"--{place}={data}" for place in _roots(config, shrunk or {})]
    return args


def _roots(arguments: dict, shrunk: dict, within: str = "") -> Iterator[str]:
    """Yield where in arguments a root folder stands, but of an object that is replaced."""
    for name, value in arguments.items():
        new = shrunk.get(name) or {}
        if name == "root":
            yield f"{within}root"
        elif isinstance(value, dict) and "class_path" not in new:
            inner, smaller = value.get("init_args", {}), new.get("init_args", {})
            yield from _roots(inner, smaller, f"{within}{name}.")
