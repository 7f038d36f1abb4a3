"""The readers of whole runs: checkpoints as the Trainer takes them, run folders, configs."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn

import trimtab
from framework.command.class_paths import set_up_parsing
from framework.command.cli import TrimtabCLI, run
from framework.command.help_pages import help_page
from framework.command.load import _Parser
from framework.runs.newest_checkpoint import newest_checkpoint
from framework.runs.run_record import HELD, HeldFolder, read_record, record_of
from framework.utilities.yaml_files import read_yaml
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.hostile.container_mutations import change_state
from tests.hostile.mutations import TEXT, change_lines, change_yaml
from tests.hostile.registry import JSON, SAFETENSORS, TENSORS, reader, saved

STATES = (*[change_state] * 8, *TENSORS[:1])


def _trainer(folder: Path, max_epochs: int) -> Any:
    from framework.runs.resume import ExactResume
    from framework.runs.run_checkpoint import RunCheckpoint

    best = RunCheckpoint(
        dirpath=str(folder / "checkpoints"),
        filename="best",
        monitor="val/accuracy",
        mode="max",
        save_top_k=1,
        enable_version_counter=False,
    )
    return tiny_trainer(folder, [best, ExactResume()], False, max_epochs=max_epochs)


def _run() -> dict[str, bytes]:
    _trainer(Path.cwd(), 1).fit(TinyModule(), TinyData())
    return {"checkpoints/best.ckpt": Path("checkpoints", "best.ckpt").read_bytes()}


LIGHTNING = "framework.utilities.lightning_internals"
LOADING = ["framework.runs.checkpoint_io:AtomicCheckpointIO.load_checkpoint"]


@reader("fit", _run, LOADING, STATES, is_direct=False)
def _(folder: Path) -> Any:
    path = folder / "checkpoints" / "best.ckpt"
    _trainer(folder, 2).fit(TinyModule(), TinyData(), ckpt_path=str(path))


@reader("test", _run, LOADING, STATES, is_direct=False)
def _(folder: Path) -> Any:
    path = folder / "checkpoints" / "best.ckpt"
    _trainer(folder, 2).test(TinyModule(), TinyData(), ckpt_path=str(path), verbose=False)


@reader(
    "load_from_checkpoint",
    _run,
    [f"{LIGHTNING}:CheckedLoading.load_from_checkpoint"],
    STATES,
    is_direct=False,
)
def _(folder: Path) -> Any:
    return TinyModule.load_from_checkpoint(folder / "checkpoints" / "best.ckpt", strict=True)


@reader(
    "newest checkpoint",
    _run,
    [f"framework.runs.newest_checkpoint:{f}" for f in ("step_of", "_is_whole", "_check_shards")],
    STATES,
)
def _(folder: Path) -> Any:
    with catch_warnings():
        simplefilter("ignore")
        return newest_checkpoint(folder / "checkpoints")


def _record() -> dict[str, bytes]:
    HeldFolder(Path.cwd(), record_of(["fit", "--config", "classifier"], None), is_claim=True).end()
    HELD.popitem()[1].release()
    return {".run.json": Path(".run.json").read_bytes()}


@reader("record of a run", _record, ["framework.runs.run_record:read_record"], JSON)
def _(folder: Path) -> Any:
    return read_record(folder)


# ---- configs -------------------------------------------------------------------------------------

CONFIGS = Path(__file__).parents[2] / "configs"
# a thousand classes, by a line that is repeated, take a while to be checked one by one
CHANGES = (*[change_yaml] * 6, *(change for change in TEXT if change is not change_lines))
YAML_FILES = [
    "framework.utilities.limits:open_file",
    *(
        f"framework.utilities.yaml_files:{f}"
        for f in ("read_yaml", "yaml_text", "load_yaml", "_read")
    ),
]
KINDS = {"model": LightningModule, "data": LightningDataModule, "callback": Callback}


def _config(*names: str) -> dict[str, Any]:
    """Return a config with its callbacks one by one, beside the model and the data."""
    found: dict[str, Any] = {}
    for name in names:
        found |= yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return found


def _section(name: str, section: Any) -> Callable[[], dict[str, bytes]]:
    return lambda: {"config.yaml": yaml.safe_dump({name: section}).encode()}


def _set_up() -> None:
    set_up_parsing()
    import_module("timm")  # which a class of it in a config would do


@cache
def _parser(name: str) -> Any:
    _set_up()
    parser = _Parser()
    parser.add_subclass_arguments(KINDS[name], name, required=True, fail_untyped=False)
    return parser


def _build(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        parser = _parser(name)
        content = read_yaml(folder / "config.yaml")
        if not isinstance(content, dict) or name not in content:
            raise ValueError("the config has lost its section.")
        return parser.instantiate_classes(parser.parse_object({name: content[name]}))

    return read


def _callback(overlay: str) -> Any:
    return _config(f"with/{overlay}")["trainer"]["callbacks+"][0]


_classifier, _gghl = _config("classifier"), _config("gghl")
_classifier["model"]["init_args"] |= {"num_classes": 10, "input_shape": [1, 8, 8], "widths": [8, 8]}
SECTIONS = {
    "model": ("model", _classifier["model"]),
    "digits": ("data", _classifier["data"]),
    "scenes": ("data", _gghl["data"]),
    "saf": ("callback", _callback("saf")),
    "checkpoint": (
        "callback",
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": "checkpoints", "monitor": "val/loss", "filename": "a"},
        },
    ),
}
for _name, (_kind, _part) in SECTIONS.items():
    reader(f"config-{_name}", _section(_kind, _part), YAML_FILES, CHANGES, is_direct=False)(
        _build(_kind)
    )


class _Parsed(Exception):  # noqa: N818
    """Stops the command when its parser is built."""


class _ParserOnly(TrimtabCLI):
    """The command up to its parser, which then serves many configs."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.parser = parser
        raise _Parsed

    def _run(self, args: Sequence[str]) -> None:
        with suppress(_Parsed):
            super()._run(args)


@cache
def _whole_parser() -> Any:
    _set_up()
    return _ParserOnly(["fit"], []).parser


@reader(
    "config",
    lambda: {
        f"{k}.yaml": (CONFIGS / f"{name}.yaml").read_bytes()
        for k, name in enumerate(("classifier", "with/saf", "with/lion"))
    },
    [
        "framework.command.class_paths:_load_config",
        "framework.command.class_paths:_read_config",
        "framework.command.jsonargparse_internals:read_config_files_by",
    ],
    CHANGES,
    is_direct=False,
)
def _(folder: Path) -> Any:
    configs = [part for path in sorted(folder.glob("*.yaml")) for part in ("--config", str(path))]
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return _whole_parser().parse_args(["fit", *configs])
    except SystemExit as stop:
        if stop.code != 2:
            raise
        raise ValueError(said.getvalue()) from stop


# ---- a run folder, and models that others trained ------------------------------------------------


def _folder() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        small = [
            "--model.widths=[4,4]",
            "--trainer.limit_train_batches=1",
            "--trainer.max_epochs=1",
        ]
        quiet = ["--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false"]
        config = str(CONFIGS / "classifier.yaml")
        run(["fit", "--config", config, *small, *quiet, "--run_folder", folder])
        names = ("config.yaml", "checkpoints/best.ckpt")
        return {name: Path(folder, name).read_bytes() for name in names}


@reader(
    "load",
    _folder,
    ["framework.command.load:load", "framework.command.load:_read_config", *LOADING],
    (*[change_yaml] * 3, *STATES),
    is_direct=False,
)
def _(folder: Path) -> Any:
    _set_up()
    return trimtab.load(folder / "checkpoints" / "best.ckpt")


@reader(
    "help",
    lambda: {"a.yaml": (CONFIGS / "classifier.yaml").read_bytes()},
    ["framework.command.help_pages:_chosen"],
    CHANGES,
    is_direct=False,
)
def _(folder: Path) -> Any:
    _set_up()
    return help_page(["fit", "--config", str(folder / "a.yaml"), "--model.criterion.help"])


def _nested() -> Any:
    from modules.classifier.network import ClassifierNetwork
    from modules.nested.network import NestedNetwork

    return NestedNetwork(ClassifierNetwork(nn.Flatten(), 6, 3), sigma=None, mu=0, dropout=0)


@reader(
    "stage-one",
    lambda: {
        "one.ckpt": saved(
            {"state_dict": {f"network.{k}": v for k, v in _nested().state_dict().items()}}
        )
    },
    ["modules.coteaching.stage_one:load_stage_one"],
    STATES,
    is_direct=False,
)
def _(folder: Path) -> Any:
    from modules.coteaching.stage_one import load_stage_one

    load_stage_one(_nested(), str(folder / "one.ckpt"))


def _language_model() -> dict[str, bytes]:
    from tests.helpers.language import tiny_causal

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_causal()
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@reader(
    "language-model",
    _language_model,
    ["framework.language.language_model:load_language_model"],
    (*JSON, *SAFETENSORS),
    is_direct=False,
)
def _(folder: Path) -> Any:
    from framework.language.language_model import load_language_model

    return load_language_model(str(folder))
