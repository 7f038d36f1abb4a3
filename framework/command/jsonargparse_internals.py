"""Private names of jsonargparse: every one that Trimtab touches is touched in this file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jsonargparse import ArgumentParser, Namespace, _parameter_resolvers, _typehints


def drop_arguments_of_replaced_classes() -> None:
    """Make a changed ``class_path`` drop every argument of the old class.

    jsonargparse keeps those that the new class accepts too, so that AdamW's weight decay would
    silently live on under SGD. It offers no setting for this.
    """

    def discard(parser_or_action: Any, prev_val: Any, value: Any) -> None:
        if prev_val and "init_args" in prev_val and prev_val["class_path"] != value["class_path"]:
            prev_val["init_args"] = Namespace()

    _typehints.discard_init_args_on_class_path_change = discard


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


def option_strings(parser: ArgumentParser) -> list[str]:
    """Return every option of a parser, such as ``--trainer.max_epochs``."""
    return [option for action in parser._actions for option in action.option_strings]


def accepted_arguments(kind: type) -> list[str]:
    """Return the names of a class's arguments, those behind ``**options`` included."""
    return [parameter.name for parameter in _parameter_resolvers.get_signature_parameters(kind)]
