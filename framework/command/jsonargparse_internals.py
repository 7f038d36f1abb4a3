"""Private names of jsonargparse: every one that Trimtab touches is touched in this file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter
from traceback import walk_stack, walk_tb
from typing import Any

from jsonargparse import (
    ArgumentParser,
    Namespace,
    _actions,
    _parameter_resolvers,
    _paths,
    _signatures,
    _typehints,
    _util,
)


def drop_arguments_of_replaced_classes() -> None:
    """Make a changed ``class_path`` drop every argument of the old class.

    jsonargparse keeps those that the new class accepts too, so that AdamW's weight decay would
    silently live on under SGD. It offers no setting for this.
    """

    def discard(parser_or_action: Any, prev_val: Any, value: Any) -> None:
        if prev_val and "init_args" in prev_val and prev_val["class_path"] != value["class_path"]:
            prev_val["init_args"] = Namespace()

    _typehints.discard_init_args_on_class_path_change = discard


def read_config_files_by(read: Callable[[str, str], str]) -> None:
    """Make jsonargparse read configs, and those that a config names, by a function of ours.

    Its own reads a file of any size before anything looks at it, and offers no setting.

    Args:
        read: Function of a path and of its name in messages, which returns the text.
    """

    def read_text(self: _paths.Path) -> str:
        return read(self.absolute, self.relative)

    _paths.Path.read_text = read_text  # type: ignore[method-assign]


_rank_of_type = _typehints.union_subtype_sort_key


def read_whole_numbers_as_integers() -> None:
    """Make a number without a decimal point an int where float is accepted, too.

    Python keeps one union for ``Union[int, float]`` and ``Union[float, int]``, in the order that
    was asked for first: with some modules imported, a limit of 1 batch would be 1.0, all batches.
    """
    _typehints.union_subtype_sort_key = _rank


def _rank(subtype: Any) -> int:
    return -2 if subtype is bool else -1 if subtype is int else _rank_of_type(subtype)


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
    return [argument.name for argument in arguments_of(kind)]


@dataclass(frozen=True)
class Argument:
    """An argument of a class: its name, type hint, default and text.

    Args:
        name: Name.
        hint: Type hint, None where there is none.
        default: Default, ``Parameter.empty`` for an argument that must be given.
        text: What the class's docstring says.
    """

    name: str
    hint: Any
    default: Any
    text: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is Parameter.empty


def arguments_of(kind: type) -> list[Argument]:
    """Return the arguments of a class, those behind ``**options`` included."""
    return [
        Argument(
            param.name,
            None if param.annotation is Parameter.empty else param.annotation,
            param.default,
            " ".join((param.doc or "").split()),
        )
        for param in _parameter_resolvers.get_signature_parameters(kind)
    ]


_import_object = _util.import_object
_adapt_any = _typehints.adapt_classes_any
_as_spec = _typehints.subclass_spec_as_namespace
_parameters = _parameter_resolvers.get_signature_parameters


def import_by(find: Callable[[str], Any]) -> None:
    """Make jsonargparse import what a value names by ``find`` alone, where it reads and makes it.

    Its own lists of packages know neither a class from a function nor what an argument asks for.
    """

    def import_object(name: str, check_path: bool = True) -> Any:
        return find(name) if check_path else import_unchecked(name)

    for module in (_actions, _typehints, _util):
        vars(module)["import_object"] = import_object


def import_trusted(path: str) -> Any:
    """Return what a dotted path names, if a config may name it."""
    return _util.import_object(path)


def import_unchecked(path: str) -> Any:
    """Return what a dotted path names, of a package that a person trusts."""
    return _import_object(path, check_path=False)


def sources_of(found: Any) -> set[str]:
    """Return the dotted paths of what an object is or calls, by the modules that define it."""
    return set(_util.canonical_import_paths(found))


def keep_untyped_values_plain(is_allowed: Callable[[str], bool]) -> None:
    """Make arguments of any type, and mappings, take no ``class_path``.

    jsonargparse makes an object of every value that looks like one. Its setting against this hands
    the mapping on and says nothing.

    Args:
        is_allowed: Whether a dotted path may be named all the same.
    """

    def refuse(value: Any) -> None:
        if isinstance(value, dict) and "class_path" not in value:
            value = list(value.values())
        if isinstance(value, list):
            for part in value:
                refuse(part)
        elif isinstance(value, dict | Namespace) and "class_path" in value:
            path = str(value["class_path"])
            if not is_allowed(path):
                raise ValueError(
                    f"only plain values are taken here and {path} was not imported; "
                    f"use --allow {path.partition('.')[0]} if you trust it"
                )

    def adapt_any(val: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(val)
        return _adapt_any(val, *args, **kwargs)

    def check_mapping(val: Any, typehint: Any, subtypehints: Any, *_: Any) -> None:
        if subtypehints is None or _typehints.accepts_any_value(subtypehints[1]):
            refuse(val)

    def parse_keywords(value: Any, prev_val: Any = None) -> Any:
        spec = _as_spec(value, prev_val)
        keywords = spec.get("dict_kwargs") if isinstance(spec, Namespace) else None
        for keyword in keywords.values() if isinstance(keywords, dict | Namespace) else ():
            refuse(keyword)
        return spec

    vars(_typehints).update(
        subclass_spec_as_namespace=parse_keywords,
        adapt_classes_any=adapt_any,
        validate_subclass_spec_in_mapping=check_mapping,
    )


def declare_types(hints: Mapping[str, Mapping[str, Any]]) -> None:
    """Give types to arguments that have none, by the dotted path of the class and their name."""

    def parameters(kind: Any, *args: Any, **kwargs: Any) -> Any:
        found = _parameters(kind, *args, **kwargs)
        bases = kind.__mro__ if isinstance(kind, type) else ()
        known: dict[str, Any] = {}
        for base in bases[::-1]:
            known |= hints.get(f"{base.__module__}.{base.__qualname__}", {})
        return [
            replace(one, annotation=known[one.name])
            if one.annotation is Parameter.empty and one.name in known
            else one
            for one in found
        ]

    for module in (_parameter_resolvers, _signatures):
        vars(module)["get_signature_parameters"] = parameters


@dataclass(frozen=True)
class Place:
    """Where in a config jsonargparse was when it refused something.

    Args:
        path: Dotted path of the value that was being read, '' at the top.
        kind: Class at ``path`` whose arguments were being read, None where it has none yet.
        hint: Type hint of the value at ``path``.
        value: Value that was given there.
        config: What the config held by then, of which ``path`` is a path.
        args: Command line.
    """

    path: str
    kind: type | None
    hint: Any
    value: Any
    config: Any
    args: tuple[str, ...]


def place_of(error: BaseException | None) -> Place:
    """Return the place that the parser at work has come to, by the calls that led here.

    A parser of a class knows neither its class nor where the class stands.

    Args:
        error: What the parser has caught, if anything.
    """
    frames = [frame for frame, _ in walk_stack(None)][::-1]
    frames += [frame for frame, _ in walk_tb(error.__traceback__ if error else None)]
    keys: list[str] = []
    kind = hint = value = config = None
    args: tuple[str, ...] = ()
    for frame in frames:
        known = frame.f_locals
        if frame.f_code is _typehints.ActionTypeHint._check_type.__code__:
            keys.append(known["self"].dest)
            kind = None
            hint, value = known["self"]._typehint, known.get("orig_val", known.get("value"))
            config = known.get("cfg") if config is None or len(keys) == 1 else config
        elif frame.f_code is _typehints.adapt_class_type.__code__:
            kind = known.get("val_class", kind)
        elif frame.f_code.co_name == "parse_args" and "unk" in frame.f_code.co_varnames:
            args = args or tuple(known.get("args") or ())
            config = config if keys else known.get("cfg")
    return Place(".".join(keys), kind, hint, value, config, args)


def path_of_what_failed(error: BaseException) -> str:
    """Return the dotted path of the class that could not be made, '' where none was being made."""
    keys: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    # each union that was tried raises an error of its own
    while cause is not None:
        for frame, _ in walk_tb(cause.__traceback__):
            making = frame.f_code is _typehints.ActionTypeHint.instantiate_classes.__code__
            if making and id(frame) not in seen:
                seen.add(id(frame))
                keys.append(frame.f_locals["self"].dest)
        cause = cause.__cause__
    return ".".join(keys)


def nested_argument(value: Any) -> str | None:
    """Return the name in ``--path.name VALUE`` where no class is chosen that could have it."""
    return value.key if isinstance(value, _util.NestedArg) else None
