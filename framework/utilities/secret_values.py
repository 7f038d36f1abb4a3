"""Values that are nobody else's business, such as passwords, out of what others are shown."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_NAME = re.compile(
    r"(^|_)(api_?key|access_?key|secret_?key|private_?key|secret|passw(or)?d|credentials?)$"
    r"|^token$|(auth|access|api|hub|hf|bearer|refresh)_token$",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")


def without_secrets(config: Any) -> Any:
    """Return a config whose secrets are ``***``, by the names of settings; for others to see.

    Passwords in addresses are hidden, too. Other values are as they were.

    Args:
        config: Config of dicts, lists and plain values.

    Example:
        >>> without_secrets({"api_key": "x7", "uri": "https://me:x7@host/", "lr": 0.1})
        {'api_key': '***', 'uri': 'https://me:***@host/', 'lr': 0.1}
    """
    if isinstance(config, dict):
        return {
            name: HIDDEN
            if type(value) in (str, int) and _NAME.search(str(name))
            else without_secrets(value)
            for name, value in config.items()
        }
    if isinstance(config, list):
        return [without_secrets(value) for value in config]
    return _IN_ADDRESS.sub(rf"\g<1>{HIDDEN}@", config) if isinstance(config, str) else config
