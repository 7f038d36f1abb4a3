"""The classes of DOTA in their official order."""

from __future__ import annotations

_V1_0 = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
_V1_5 = (*_V1_0, "container-crane")
_V2_0 = (*_V1_5, "airport", "helipad")

CLASS_NAMES = {"1.0": _V1_0, "1.5": _V1_5, "2.0": _V2_0}
"""Names of the classes, by version: 15, 16 and 18."""
