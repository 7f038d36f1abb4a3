from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

import trimtab
from framework.runs.best_values import BestValues
from framework.runs.panels import EPOCH, STEP, Layout, Panel
from tests.helpers.configs import DOMAINS, module_class
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def test_axes_directions_and_charts_of_standard_names() -> None:
    layout = Layout((Panel("Accuracy", ("accuracy*",), best="max"), *Layout().panels))
    assert {name: layout.axis(name) for name in ("train/loss", "lr-Adam/pg1", "train/x")} == {
        "train/loss": STEP,
        "lr-Adam/pg1": STEP,
        "train/x": STEP,
    }
    names = ("val/loss", "train/loss_epoch", "train/x_epoch", "val/accuracy_top5", "test/x")
    assert {layout.axis(name) for name in names} == {EPOCH}
    assert layout.direction("val/accuracy") == "max"
    assert layout.direction("val/loss") == "min"
    for name in ("test/accuracy", "train/loss_epoch", "val/x", "train/accuracy"):
        assert layout.direction(name) is None
    assert layout.panel(EPOCH) is layout.panel(STEP) is None
    shown = layout.by_panel(["val/accuracy", "val/loss", "train/loss_epoch", "epoch"])
    assert {panel.title: names for panel, names in shown.items()} == {
        "Accuracy": ["val/accuracy"],
        "Loss of an epoch": ["val/loss", "train/loss_epoch"],
    }


@pytest.mark.parametrize(
    ("interval", "axis"), [(1.0, EPOCH), (3, STEP), (1, STEP), ("00:01:00:00", STEP)]
)
def test_a_run_brings_what_it_monitors_and_its_callbacks_panels(
    tmp_path: Any, interval: float | str, axis: str
) -> None:
    class Watch(ModelCheckpoint):
        panels = (Panel("Watched", ("val/size",), "bytes"),)

    watch = Watch(monitor="val/size", mode="max", dirpath=tmp_path)
    trainer = tiny_trainer(tmp_path, [watch], False, max_epochs=1, val_check_interval=interval)
    module = TinyModule()
    trainer.fit(module, TinyData())
    layout = Layout.of(module)
    panel = layout.panel("val/size")
    assert panel is not None
    assert panel.unit == "bytes"
    assert layout.direction("val/size") == "max"
    assert layout.axis("val/size") == axis


def test_the_best_of_an_earlier_part_counts_up_to_the_checkpoint(tmp_path: Any) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,val/loss\n0,5,0.5\n1,11,0.25\n2,17,nan\n3,23,0.125\n")
    best = BestValues(Layout())
    best.read(path, below=18)
    assert best.improved({"val/loss": 0.3}) == {}
    assert best.improved({"val/loss": float("nan"), "x": 1.0}) == {}
    assert best.improved({"val/loss": 0.2}) == {"best/val/loss": 0.2}


@pytest.mark.parametrize("system", DOMAINS)
def test_all_values_of_a_panel_have_one_unit(system: str) -> None:
    module = getattr(trimtab, module_class(system).rpartition(".")[2])
    assert module.panels
    assert not [panel.title for panel in module.panels if "," in panel.unit]
