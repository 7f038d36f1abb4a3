"""What a config may name: trials that ran code once, and everything that can be reached now."""

from __future__ import annotations

import collections.abc
import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.collect_env
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.transforms import AutoAugmentPolicy

import trimtab
from framework.command import cli
from framework.command.accepted_classes import (
    ACCEPTED,
    HINTS,
    OURS,
    Accepted,
    NotAcceptedError,
    find_object,
    is_accepted,
    is_in,
)
from framework.command.class_paths import set_up_parsing
from framework.command.cli import Parser
from framework.command.jsonargparse_internals import import_trusted
from tests.helpers.command import refused
from tests.helpers.reachable_classes import LIST, lines, reachable, takes_functions, versions

ROOT = Path(__file__).parents[3]
Section = dict[str, Any]
RUN = {"class_path": "torch.utils.collect_env.run", "init_args": {"command": "touch trace"}}
REFUSED = "was not imported; use --allow"


@pytest.fixture(autouse=True)
def _nobody_is_allowed() -> None:
    trimtab.import_configurable_classes()
    set_up_parsing()


def entry(path: str, **arguments: Any) -> Section:
    return {"class_path": path, "init_args": arguments}


def build(kind: Any, value: Any, **options: Any) -> Any:
    """Return what the parser makes of a value for an argument of some type."""
    parser = Parser()
    parser.add_argument("--one", type=kind, **options)
    return parser.instantiate_classes(parser.parse_object({"one": value}))["one"]


def trainer(**arguments: Any) -> Section:
    return {"trainer": arguments}


def digits(*transforms: Any) -> Section:
    return {"data": entry("Digits", augment=list(transforms))}


# ---- what ran code ----------------------------------------------------------------------------

LIGHTNING, TRANSFORMS = "lightning.pytorch", "torchvision.transforms"
TRIALS: dict[str, Section] = {
    "a function in a callback": trainer(
        callbacks=[entry(f"{LIGHTNING}.callbacks.LambdaCallback", on_fit_start=RUN)]
    ),
    "a function in an optional argument": trainer(
        callbacks=[entry(f"{LIGHTNING}.callbacks.WeightAveraging", avg_fn=RUN)]
    ),
    "a function by its name": trainer(
        callbacks=[entry("WeightAveraging", avg_fn="torch.utils.collect_env.run")]
    ),
    "an argument without a type": digits(entry(f"{TRANSFORMS}.RandomApply", transforms=[RUN])),
    "an argument of any type": trainer(
        strategy=entry(f"{LIGHTNING}.strategies.DDPStrategy", ddp_comm_state=RUN)
    ),
    "deep in an argument of any type": trainer(
        strategy=entry("DDPStrategy", ddp_comm_state={"a": [{"b": RUN}]})
    ),
    "a further keyword": trainer(
        strategy={"class_path": "DDPStrategy", "dict_kwargs": {"unknown": RUN}}
    ),
    "a mapping": trainer(callbacks=[entry("RichProgressBar", console_kwargs=RUN)]),
    "inside a mapping": trainer(callbacks=[entry("SAELensExport", metadata={"a": [RUN]})]),
    "a private loader": trainer(
        strategy=entry(
            "DDPStrategy",
            ddp_comm_state=entry(
                f"{LIGHTNING}.core.saving._load_from_checkpoint",
                checkpoint_path="evil.ckpt",
                weights_only=False,
            ),
        )
    ),
    "a loader of Lightning": {
        "model": entry(f"{LIGHTNING}.LightningModule.load_from_checkpoint", checkpoint_path="a")
    },
    "a class that starts a process": trainer(
        strategy=entry(
            "DDPStrategy",
            ddp_comm_state=entry(
                "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
                entrypoint="touch",
                args=["trace"],
            ),
        )
    ),
    "a function that returns an optimizer": {"model": {"init_args": {"optimizer": RUN}}},
    "a strategy that unpickles": trainer(strategy=entry(f"{LIGHTNING}.strategies.FSDPStrategy")),
    "a plugin that unpickles": trainer(plugins=[entry(f"{LIGHTNING}.plugins.TorchCheckpointIO")]),
    "a private class": {"model": {"init_args": {"criterion": "torch.nn.modules.loss._Loss"}}},
}


@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.usefixtures("elsewhere")
def test_a_config_runs_nothing(trial, capsys):
    Path("evil.yaml").write_text(yaml.safe_dump(TRIALS[trial]))
    said = refused(["fit", "--config=classifier", "--config=evil.yaml"], capsys)
    assert REFUSED in said
    assert "\n" not in said.strip()
    assert not Path("trace").exists()


@pytest.mark.parametrize("name", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2"])
@pytest.mark.usefixtures("elsewhere")
def test_the_name_of_a_strategy_that_unpickles(name, capsys):
    said = refused(["fit", "--config=classifier", f"--trainer.strategy={name}"], capsys)
    assert said == (
        f"trainer.strategy '{name}' reads checkpoints by Python's unpickler, which can run code; "
        "take FullyShardedStrategy, or use --allow lightning if you trust yours."
    )


@pytest.mark.parametrize("path", ["os.system", "torch.hub.load", "torch.utils.collect_env.run"])
@pytest.mark.usefixtures("elsewhere")
def test_a_help_page_imports_nothing_else(path, capsys):
    assert REFUSED in refused(["fit", f"--model.help={path}"], capsys)


def test_a_help_page_lists_what_is_accepted(capsys):
    with pytest.raises(SystemExit):
        trimtab.main(["fit", "--data=Digits", "--data.augment.help"])
    shown = capsys.readouterr().out
    assert "v2.ColorJitter" in shown
    assert "v2.Lambda" not in shown
    with pytest.raises(SystemExit):
        trimtab.main(["fit", "--trainer.callbacks.help"])
    shown = capsys.readouterr().out
    assert "EMAWeightAveraging" in shown
    assert "LambdaCallback" not in shown


# ---- random ways out --------------------------------------------------------------------------

WORDS = """
framework command cli os system torch nn functional hub load utils collect_env run optim
SGD __class__ __init__ __globals__ __builtins__ eval lightning pytorch callbacks Callback
LambdaCallback torchvision transforms Lambda modules datamodules timm subprocess Popen
builtins exec importlib import_module __import__ mro serialization _Loss loss core saving
LightningModule load_from_checkpoint plugins io typing Any class_paths Trainer
"""
PARTS = st.sampled_from(WORDS.split())


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=6).map(".".join))
@example("framework.command.cli.os.system")
@example("torch.nn.functional.torch.hub.load")
@example("torch.optim.sgd.torch")
@example("torch.optim.SGD.__class__")
@example("torch.optim.SGD.__init__")
@example("torch.nn.Module.__init_subclass__")
@example("torchvision.transforms.functional.crop")
@example("callbacks.saf.Callback")
@example("framework.command.load.load")
@example("framework.losses.loss")
@example("modules.Classifier.load_from_checkpoint")
def test_every_path_leads_to_an_accepted_class_or_nowhere(path):
    try:
        found = find_object(path)
    except (ImportError, AttributeError, ValueError):
        return
    assert isinstance(found, type)
    assert is_accepted(found)
    assert not found.__name__.startswith("_")


VALUES = st.recursive(
    st.sampled_from([RUN, {**RUN, "more": 1}, {"class_path": "os.system"}, 1, "torch.hub.load"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)


def _classes_named(value: Any) -> bool:
    parts = list(value.values()) if isinstance(value, dict) else value
    here = isinstance(value, dict) and "class_path" in value
    return here or (isinstance(parts, list) and any(map(_classes_named, parts)))


@settings(max_examples=60, deadline=None)
@given(VALUES, st.sampled_from([Any, object, dict, dict[str, Any], list[Any], Any | None]))
def test_values_of_any_type_stay_plain(value, kind):
    try:
        made = build(kind, value)
    except SystemExit:
        return
    assert not _classes_named(value)
    assert made == value


HOLDERS = {
    "WeightAveraging": ["avg_fn", "device"],
    "RichProgressBar": ["theme", "console_kwargs"],
    "DDPStrategy": ["ddp_comm_state", "cluster_environment", "timeout", "accelerator"],
    f"{TRANSFORMS}.RandomApply": ["transforms", "p"],
    f"{TRANSFORMS}.v2.Compose": ["transforms"],
    "PixelTransform": ["transform"],
    "torch.optim.SGD": ["lr", "params"],
    "torch.optim.lr_scheduler.LambdaLR": ["lr_lambda", "optimizer"],
    "callbacks.SAF": ["weight", "dtype"],
    "torch.utils.collect_env.run": ["command"],
    "torch.utils.collect_env": ["run"],
    "run": ["command"],
}
PLACES = [
    Callback,
    Strategy | str,
    list[nn.Module],
    nn.Module | None,
    collections.abc.Callable[[list], Optimizer],
    collections.abc.Callable[[Optimizer], LRScheduler],
    collections.abc.Callable,
    type[Callback],
    AutoAugmentPolicy,
    dict[str, Callback],
    Any,
]


@st.composite
def specs(draw: st.DrawFn, depth: int = 2) -> Any:
    """Return something like a class and its arguments, each of which may be another one."""
    path = draw(st.sampled_from([*HOLDERS, "torch.utils.collect_env.run"]))
    key = draw(st.sampled_from(["init_args", "dict_kwargs", "class_path"]))
    plain = st.sampled_from([path, 1, None, "touch trace", "__class__"])
    value = (
        specs(depth=depth - 1) | st.lists(specs(depth=depth - 1), max_size=1) if depth else plain
    )
    names = st.sampled_from([*HOLDERS.get(path, []), "unknown", "__init__", "class_path"])
    arguments = draw(st.dictionaries(names, value | plain, max_size=2))
    return {"class_path": path, key: arguments} if key != "class_path" else path


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs(), st.sampled_from(PLACES))
def test_no_value_of_any_place_calls_a_function(value, kind):
    called = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.collect_env, "run", lambda *a, **k: called.append((a, k)))
        for whole in (value, [value], {"a": value}):
            with contextlib.suppress(SystemExit, ValueError, TypeError, RuntimeError):
                build(kind, whole)
    assert not called


@pytest.mark.parametrize(
    "kind", [type, type[Callback], type[nn.Module], nn.Module | type, Callback]
)
@pytest.mark.parametrize(
    "path", ["subprocess.Popen", "torch.utils.collect_env.run", "os", "os.path"]
)
def test_types_are_accepted_classes(kind, path):
    with pytest.raises(SystemExit):
        build(kind, path)


def test_functions_are_of_allowed_packages(tmp_path, monkeypatch):
    (tmp_path / "of_a_person.py").write_text(
        "import os\nfrom torch.utils.collect_env import run\nfrom torch.optim import SGD\n"
        "from functools import partial\nfrom subprocess import Popen\n"
        "def half(x): return x / 2\ntouch = partial(os.system, 'touch trace')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    function = collections.abc.Callable[[float], float]
    with pytest.raises(SystemExit):
        build(function, "of_a_person.half")
    set_up_parsing(["of_a_person"])
    assert build(function, "of_a_person.half")(3.0) == 1.5
    assert import_trusted("of_a_person.SGD") is torch.optim.SGD
    # what it imports of others counts as theirs
    for name in ("run", "Popen", "os.system", "touch", "os"):
        with pytest.raises(NotAcceptedError):
            import_trusted(f"of_a_person.{name}")
    # the next command trusts nobody again
    set_up_parsing()
    with pytest.raises(NotAcceptedError):
        import_trusted("of_a_person.half")


def test_what_is_made_is_checked_once_more():
    parser = Parser()
    parser.add_subclass_arguments(Callback, "one", required=True, fail_untyped=False)
    parsed = parser.parse_object({"one": entry("EarlyStopping", monitor="loss")})
    for path in ("torch.utils.collect_env.run", "lightning.pytorch.callbacks.LambdaCallback"):
        parsed.one.class_path = path
        with pytest.raises(ValueError, match=r"torch|lightning"):
            parser.instantiate_classes(parsed)


@pytest.mark.parametrize("name", ["hf-hub:stranger/model", "local-dir:/tmp", "resnet18:a", "./a"])
def test_a_backbone_is_a_name_of_timm(name):
    pytest.importorskip("timm")
    section = entry("Classifier", num_classes=2, input_shape=[3, 32, 32], backbone=name)
    parser = Parser()
    parser.add_subclass_arguments(LightningModule, "one", required=True, fail_untyped=False)
    parsed = parser.parse_object({"one": section})
    with pytest.raises(ValueError, match=f"There is no backbone '{name}'"):
        parser.instantiate_classes(parsed)


@pytest.mark.usefixtures("elsewhere")
def test_a_config_cannot_have_a_checkpoint_unpickled():
    seen = []

    class Stop(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append(trainer.strategy.checkpoint_io)

    Path("evil.yaml").write_text("weights_only: false\ntrainer: {plugins: [AsyncCheckpointIO]}\n")
    options = ["--trainer.fast_dev_run=true", "--run_folder=run"]
    cli.main(["fit", "--config=classifier", "--config=evil.yaml", *options], [Stop()])
    assert isinstance(seen[0].checkpoint_io, trimtab.AtomicCheckpointIO)


# ---- what can be reached ----------------------------------------------------------------------


def test_what_a_config_can_reach():
    written, now = _lines(), lines()
    if versions() not in LIST.read_text():
        # other versions have other classes and arguments
        written, now = ([one.split()[0] for one in part] for part in (written, now))
        written, now = ([one for one in part if is_in(one, OURS)] for part in (written, now))
    assert now == written, "python -m tests.helpers.reachable_classes writes the list anew"


def _lines() -> list[str]:
    return [line for line in LIST.read_text().splitlines() if not line.startswith("#")]


def test_whatever_is_reached_takes_no_functions():
    asked = 0
    for arguments in reachable().values():
        for argument in arguments:
            if takes_functions(argument.hint):
                asked += 1
                # what jsonargparse does not know is of any type to it
                known = ActionTypeHint.is_supported_typehint(argument.hint, full=True)
                for value in (RUN, RUN["class_path"], "os.system") if known else (RUN,):
                    value = [value] if "Sequence" in str(argument.hint) and known else value
                    try:
                        made = build(argument.hint if known else Any, value)
                    except SystemExit:
                        continue
                    # as the name of a way to prune
                    assert made == value
                    assert isinstance(value, str)
    assert asked > 20


def test_names_of_what_is_left_out():
    paths = [line.split()[0] for line in _lines()]
    names = {path.rpartition(".")[2] for path in paths}
    assert not names & {"Lambda", "LambdaCallback", "SpikeDetection", "FSDPStrategy"}
    assert not [path for path in paths if "._" in path]


def test_types_that_are_declared_are_of_arguments_without_one():
    for path, hints in HINTS.items():
        module, _, name = path.rpartition(".")
        kind = find_object(f"{module}.{name}")
        for argument in hints:
            assert argument in kind.__init__.__code__.co_varnames
            assert argument not in kind.__init__.__annotations__


# ---- the table in SECURITY.md -----------------------------------------------------------------


def row(one: Accepted) -> str:
    packages = " and ".join(f"`{module}`" for module in one.modules)
    names = ", ".join(f"`{name}`" for name in sorted(one.names)) or "every public class"
    left_out = f"; not {one.left_out}" if one.left_out else ""
    return f"| {one.slot} | {names} of {packages}{left_out} | {one.safe} |"


@pytest.mark.parametrize("one", ACCEPTED, ids=lambda one: one.slot)
def test_the_table_for_readers(one):
    assert row(one) in (ROOT / "SECURITY.md").read_text().splitlines()
