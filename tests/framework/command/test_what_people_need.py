"""What configs and the command line must go on taking, however narrow the trust in them becomes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.transforms
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torchvision.transforms import v2

import trimtab
from framework.command.class_paths import set_up_parsing
from framework.command.cli import Parser
from tests.helpers.built import CONFIG, SIZES, Section, command, entry
from tests.helpers.command import refused
from tests.helpers.runs import QUIET

pytestmark = pytest.mark.usefixtures("elsewhere")


def build(kind: type, section: Section, *allowed: str) -> Any:
    """Return the object that a section of a config describes."""
    trimtab.import_configurable_classes()
    set_up_parsing(allowed)
    parser = Parser()
    parser.add_subclass_arguments(kind, "one", required=True, fail_untyped=False)
    return parser.instantiate_classes(parser.parse_object({"one": section}))["one"]


def classifier(**arguments: Any) -> Any:
    return build(LightningModule, entry("Classifier", **SIZES, **arguments))


def trainer(*args: str, **arguments: Any) -> Trainer:
    built = command(*args, trainer={"accelerator": "cpu", "devices": 1, **arguments})
    return built.trainer


def classes(package: Any, kind: type) -> list[str]:
    """Return the names of the classes that a package has of a kind, itself left out."""
    return [
        name
        for name, one in vars(package).items()
        if inspect.isclass(one) and issubclass(one, kind) and one is not kind and name[0] != "_"
    ]


# ---- optimizers and schedules -----------------------------------------------------------------


@pytest.mark.parametrize("name", classes(torch.optim, Optimizer))
def test_optimizers(name):
    weight = torch.zeros(2, 2, requires_grad=True)
    section = entry(f"torch.optim.{name}", lr=0.1)
    optimizer = classifier(optimizer=section).optimizer([weight])
    assert type(optimizer) is getattr(torch.optim, name)
    assert optimizer.param_groups[0]["lr"] == 0.1


SCHEDULES: dict[str, Section] = {
    "ConstantLR": {},
    "CosineAnnealingLR": {"T_max": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 5},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [2, 4]},
    "OneCycleLR": {"max_lr": 0.2, "total_steps": 10},
    "PolynomialLR": {},
    "ReduceLROnPlateau": {"patience": 2},
    "StepLR": {"step_size": 5},
}
TAKE_FUNCTIONS = {"LambdaLR", "MultiplicativeLR"}
TAKE_SCHEDULES = {"ChainedScheduler", "SequentialLR"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1, momentum=0.9)
    section = entry(f"torch.optim.lr_scheduler.{name}", **SCHEDULES[name])
    schedule = classifier(lr_scheduler=section).lr_scheduler(optimizer)
    assert type(schedule) is getattr(lr_scheduler, name)


def test_no_schedule_of_torch_is_forgotten():
    assert set(classes(lr_scheduler, LRScheduler)) == {*SCHEDULES, *TAKE_FUNCTIONS, *TAKE_SCHEDULES}


# ---- losses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CrossEntropyLoss", {"label_smoothing": 0.1, "weight": [1.0] * 10}),
        ("MultiMarginLoss", {"margin": 0.5}),
    ],
)
def test_losses_of_torch_for_classes(name, arguments):
    criterion = classifier(criterion=entry(f"torch.nn.{name}", **arguments)).criterion
    assert type(criterion) is getattr(nn, name)


@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"])
def test_losses_of_torch_for_numbers(name):
    section = entry("Regressor", num_inputs=3, criterion=entry(f"torch.nn.{name}"))
    assert type(build(LightningModule, section).criterion) is getattr(nn, name)


# ---- transforms and backbones -----------------------------------------------------------------

V1, V2 = "torchvision.transforms", "torchvision.transforms.v2"
ARGUMENTS: dict[str, Section] = {
    "CenterCrop": {"size": 8},
    "ConvertBoundingBoxFormat": {"format": "XYWH"},
    "FiveCrop": {"size": 4},
    "GaussianBlur": {"kernel_size": 3, "sigma": [0.1, 2.0]},
    "JPEG": {"quality": [50, 100]},
    "Normalize": {"mean": [0.5], "std": [0.5]},
    "Pad": {"padding": 2},
    "RandomAdjustSharpness": {"sharpness_factor": 2.0},
    "RandomAffine": {"degrees": 10, "translate": [0.1, 0.1], "scale": [0.9, 1.1]},
    "RandomCrop": {"size": 8, "padding": 1},
    "RandomPosterize": {"bits": 4},
    "RandomResize": {"min_size": 8, "max_size": 9},
    "RandomResizedCrop": {"size": [8, 8], "scale": [0.5, 1.0]},
    "RandomRotation": {"degrees": 15},
    "RandomShortestSize": {"min_size": 8},
    "RandomSolarize": {"threshold": 0.5},
    "Resize": {"size": [8, 8], "antialias": True},
    "ScaleJitter": {"target_size": [8, 8]},
    "TenCrop": {"size": 4},
    "UniformTemporalSubsample": {"num_samples": 2},
}
WITHOUT_A_CONFIG = {
    "ConvertImageDtype",  # a dtype
    "Lambda",  # a function
    "LinearTransformation",  # matrices
    "ToDtype",
    "ToTensor",  # deprecated
    "Transform",  # a base
}
NESTED = {"Compose", "RandomApply", "RandomChoice", "RandomOrder"}


def augment(transforms: list[Section]) -> list[nn.Module]:
    data = build(LightningDataModule, entry("Digits", batch_size=4, augment=transforms))
    return data.transforms


@pytest.mark.parametrize("package", [V1, V2])
def test_transforms(package):
    found = v2 if package == V2 else torchvision.transforms
    names = [n for n in classes(found, nn.Module) if n not in {*WITHOUT_A_CONFIG, *NESTED}]
    assert len(names) > 20
    transforms = augment([entry(f"{package}.{n}", **ARGUMENTS.get(n, {})) for n in names])
    assert [type(one) for one in transforms] == [getattr(found, name) for name in names]


FLIP, BLUR = "RandomHorizontalFlip", "GaussianBlur"


@pytest.mark.parametrize(
    ("package", "name"), [(V1, "RandomApply"), *((V2, name) for name in sorted(NESTED))]
)
def test_transforms_of_transforms(package, name):
    inside = [entry(f"{package}.{FLIP}"), entry(f"{package}.{BLUR}", kernel_size=3)]
    (outer,) = augment([entry(f"{package}.{name}", transforms=inside)])
    assert type(outer).__name__ == name
    assert [type(one).__name__ for one in outer.transforms] == [FLIP, BLUR]
    deeper = [entry(f"{package}.{name}", transforms=inside)]
    (outer,) = augment([entry(f"{package}.{name}", transforms=deeper)])
    assert type(next(iter(outer.transforms)).transforms[0]).__name__ == FLIP


def test_a_transform_of_pixels_only():
    pixels = entry("PixelTransform", transform=entry(f"{V2}.ColorJitter", brightness=0.2))
    data = build(LightningDataModule, entry("RenderedScenes", augment=[pixels]))
    assert type(data) is trimtab.RenderedScenes


def test_backbones_of_timm():
    pytest.importorskip("timm")
    image = {"input_shape": [3, 32, 32], "backbone": "test_resnet"}
    model = build(LightningModule, entry("Classifier", num_classes=2, **image))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


# ---- the Trainer ------------------------------------------------------------------------------

LIGHTNING = "lightning.pytorch"
CALLBACKS: dict[str, Section] = {
    "BatchSizeFinder": {"max_trials": 2},
    "DeviceStatsMonitor": {"cpu_stats": False},
    "EMAWeightAveraging": {"decay": 0.9},
    "EarlyStopping": {"monitor": "val/loss", "patience": 2},
    "GradientAccumulationScheduler": {"scheduling": {0: 2, 2: 4}},
    "LearningRateMonitor": {"logging_interval": "step"},
    "ModelCheckpoint": {"monitor": "val/loss", "save_top_k": 2, "filename": "mine"},
    "ModelSummary": {"max_depth": 2},
    "OnExceptionCheckpoint": {"dirpath": "crashed"},
    "RichModelSummary": {"max_depth": 2},
    "RichProgressBar": {"refresh_rate": 2},
    "TQDMProgressBar": {"refresh_rate": 2},
    "Timer": {"duration": "00:00:01:00", "interval": "epoch"},
    "WeightAveraging": {"use_buffers": False},
}


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("short", [True, False])
def test_callbacks_of_lightning(name, short):
    path = name if short else f"{LIGHTNING}.callbacks.{name}"
    callbacks = trainer(callbacks=[entry(path, **CALLBACKS[name])]).callbacks
    assert name in {type(one).__name__ for one in callbacks}


def test_a_theme_of_the_progress_bar():
    theme = entry(f"{LIGHTNING}.callbacks.progress.rich_progress.RichProgressBarTheme", time="red")
    made = trainer(callbacks=[entry("RichProgressBar", theme=theme)])
    assert made.progress_bar_callback.theme.time == "red"


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("BackboneFinetuning", {}, "changes `requires_grad` during a run"),
        ("LearningRateFinder", {}, "sets an attribute `lr` of the module"),
        ("StochasticWeightAveraging", {"swa_lrs": 0.1, "device": "cpu"}, "use EMAWeightAveraging"),
    ],
)
def test_callbacks_that_do_not_fit_are_refused_by_their_reason(name, arguments, reason, capsys):
    callbacks = [entry(f"{LIGHTNING}.callbacks.{name}", **arguments)]
    section = {"callbacks": callbacks, "max_epochs": 1, "accelerator": "cpu"}
    Path("config.yaml").write_text(yaml.safe_dump({**CONFIG, "trainer": section}))
    assert reason in refused(["fit", "--config=config.yaml", *QUIET], capsys)


@pytest.mark.parametrize("name", ["CSVLogger", "RunLogger", "RunWandbLogger", "WandbLogger"])
def test_loggers(name):
    arguments = {
        "CSVLogger": {"save_dir": "logs", "name": "mine"},
        "WandbLogger": {"offline": True},
    }
    loggers = trainer(logger=[entry(name, **arguments.get(name, {}))]).loggers
    assert name in {type(one).__name__ for one in loggers}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("TensorBoardLogger", {"save_dir": "logs"}),
        ("MLFlowLogger", {"tracking_uri": "file:runs"}),
        ("CometLogger", {"online": False}),
    ],
)
def test_loggers_of_packages_that_may_be_missing(name, arguments, capsys):
    section = {"logger": [entry(f"{LIGHTNING}.loggers.{name}", **arguments)]}
    Path("config.yaml").write_text(yaml.safe_dump({**CONFIG, "trainer": section}))
    with pytest.raises(SystemExit) as stop:
        trimtab.main(["fit", "--config=config.yaml", "--print_config"])
    assert stop.value.code == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        ("auto", SingleDeviceStrategy),
        ("ddp", DDPStrategy),
        ("ddp_find_unused_parameters_true", DDPStrategy),
        (
            entry("DDPStrategy", find_unused_parameters=True, process_group_backend="gloo"),
            DDPStrategy,
        ),
        (entry(f"{LIGHTNING}.strategies.DDPStrategy", static_graph=True), DDPStrategy),
        (entry(f"{LIGHTNING}.strategies.SingleDeviceStrategy", device="cpu"), SingleDeviceStrategy),
    ],
)
def test_strategies(strategy, kind):
    assert type(trainer(strategy=strategy).strategy) is kind


def test_a_strategy_that_reads_checkpoints_itself_needs_allow():
    section = entry(
        f"{LIGHTNING}.strategies.FSDPStrategy", cpu_offload=True, sharding_strategy="FULL_SHARD"
    )
    with pytest.raises(SystemExit):
        build(Strategy, section)
    built = build(Strategy, section, "lightning")
    assert type(built) is FSDPStrategy


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_precisions(precision):
    assert trainer(precision=precision).precision == precision


@pytest.mark.parametrize(
    ("profiler", "kind"),
    [
        ("simple", SimpleProfiler),
        ("advanced", AdvancedProfiler),
        (entry("SimpleProfiler", filename="times"), SimpleProfiler),
        (
            entry(f"{LIGHTNING}.profilers.AdvancedProfiler", line_count_restriction=0.5),
            AdvancedProfiler,
        ),
        (entry(f"{LIGHTNING}.profilers.PyTorchProfiler", record_shapes=True), PyTorchProfiler),
    ],
)
def test_profilers(profiler, kind):
    assert type(trainer(profiler=profiler).profiler) is kind


@pytest.mark.parametrize(
    "plugin",
    [
        entry(f"{LIGHTNING}.plugins.DoublePrecision"),
        entry(f"{LIGHTNING}.plugins.MixedPrecision", precision="bf16-mixed", device="cpu"),
        entry(f"{LIGHTNING}.plugins.TorchSyncBatchNorm"),
        entry(f"{LIGHTNING}.plugins.AsyncCheckpointIO"),
        entry(f"{LIGHTNING}.plugins.environments.LightningEnvironment"),
        entry(f"{LIGHTNING}.plugins.environments.SLURMEnvironment", auto_requeue=False),
    ],
)
def test_plugins(plugin):
    trainer(plugins=[plugin])
