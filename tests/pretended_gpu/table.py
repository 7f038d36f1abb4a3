"""How a config's counts are printed, with the lines that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.pretended_gpu.bounds import TITLES, Counts
from tests.pretended_gpu.events import Kind
from tests.pretended_gpu.measure import Measurement
from tests.pretended_gpu.phases import PREDICTION, TEST, TRAINING, VALIDATION

MOST = 40  # lines of a kind
PHASES = {
    "fit": (TRAINING, VALIDATION),
    "validate": (VALIDATION,),
    "test": (TEST,),
    "predict": (PREDICTION,),
}
KINDS: dict[Kind, str] = {
    "wait": "host waits",
    "copy": "copies between host and device",
    "unpinned": "copies from pageable memory that were not to wait",
    "collective": "collectives",
    "float64": "operations on float64",
    "unordered": "sums in no fixed order",
    "launch": "launches",
}


def counts_table(name: str, counts: Counts, bounds: Counts) -> str:
    """Return the counts of a config beside its bounds."""
    lines = [f"{name:46} {'now':>8} {'bound':>8}"]
    for key, count in counts.items():
        lines.append(f"  {TITLES[key]:44} {count:8} {bounds.get(key, '-'):>8}")
    return "\n".join(lines)


def details(
    commands: Mapping[str, Measurement], ranks: list[Measurement], launches: bool = False
) -> str:
    """Return faults, places of a step and what happens between steps, of every command.

    Args:
        commands: Measurements of one process, by command.
        ranks: Those of a fit on two ranks, or none.
        launches: Whether launches were measured with their lines.
    """
    lines: list[str] = []
    for command, found in commands.items():
        lines += _measurement(command, found, PHASES[command])
    if ranks:
        lines += _measurement("fit on two ranks", ranks[0], (TRAINING,))
    if launches and "fit" in commands:
        made = commands["fit"].operations.get(TRAINING)
        if made:
            lines.append("\noperations of a training step")
            lines += [f"{count:5d}  {name}" for name, count in made.most_common(MOST)]
    return "\n".join(lines)


def _measurement(title: str, found: Measurement, phases: tuple[str, ...]) -> Iterator[str]:
    yield f"\n{title}: peak memory {found.peak_memory / 2**20:.1f} MiB"
    if found.error is not None:
        yield found.error
    yield from (f"  REFUSED: {fault}" for fault in found.faults)
    for phase in phases:
        steps = found.steps.get(phase, [])
        if steps:
            waits, launches = ([getattr(s, key) for s in steps] for key in ("waits", "launches"))
            last = steps[-1]
            yield f"  {phase}: host waits {waits}, launches {launches}"
            yield f"    bytes to the device {last.bytes_to_device}, back {last.bytes_to_host}"
        for kind, heading in KINDS.items():
            places = found.places.get(phase, {}).get(kind, [])
            if places:
                yield f"    {heading}"
                yield from (f"    {place}" for place in places[:MOST])
    between = {phase: n for phase, n in found.waits_between.items() if n}
    yield f"  host waits between steps: {between}"
