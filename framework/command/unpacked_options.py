"""Arguments that a constructor hands on to its base class as ``**options: Unpack[...]``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jsonargparse import _parameter_resolvers


def read_options_from_signatures() -> None:
    """Make jsonargparse read ``**options: Unpack[...]`` off the base class that takes the options.

    It would read the TypedDict, which has no defaults: the help and the printed config would lack
    them. The names are the TypedDict's; type, default and text are those of the base class, unless
    the class documents the argument anew. jsonargparse offers no setting for this.
    """
    _parameter_resolvers.unpack_typed_dict_kwargs = _unpack


def _unpack(params: list[Any], kwargs_idx: int, logger: Any = None) -> int:
    options = params[kwargs_idx]
    if not _parameter_resolvers.is_unpack_typehint(options.annotation):
        return kwargs_idx
    names = options.annotation.__args__[0].__optional_keys__
    texts = _parameter_resolvers.parse_docs(options.component, options.parent, logger)
    with _parameter_resolvers.mro_context(options.parent):
        inherited = _parameter_resolvers.get_mro_parameters(
            "__init__", _parameter_resolvers.get_signature_parameters, logger
        )
    params[kwargs_idx:] = [
        replace(param, doc=texts.get(param.name, param.doc))
        for param in inherited
        if param.name in names
    ]
    return -1
