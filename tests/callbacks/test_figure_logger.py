from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger
from PIL import Image

from callbacks import FigureLogger
from framework.runs.csv_logger import RunLogger
from framework.runs.wandb_logger import RunWandbLogger
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.helpers.wandb_file import history

pytestmark = pytest.mark.pictures


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


class Watch(Callback):
    """Notes after each validation which figures there are."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        folder = Path(trainer.default_root_dir) / "figures"
        self.seen.append({path.name for path in folder.glob("*")})


def test_fit_leaves_curves_and_the_modules_figures(tmp_path: Path) -> None:
    watch = Watch()
    trainer = tiny_trainer(tmp_path, [FigureLogger(), watch], RunLogger(str(tmp_path)))
    trainer.fit(TinyModule(), TinyData())
    assert watch.seen == [set(), set()], "within a minute only the end is drawn"
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "learning_curves.png",
        "val_confusion_matrix.png",
    }
    assert size(tmp_path / "figures" / "learning_curves.png")[0] == 1200
    with Image.open(tmp_path / "figures" / "val_confusion_matrix.png") as image:
        assert image.info["Description"].startswith("Confusion matrix: ")


def test_figures_may_be_redrawn_at_every_validation(tmp_path: Path) -> None:
    watch = Watch()
    trainer = tiny_trainer(
        tmp_path, [FigureLogger(every_n_minutes=0), watch], RunLogger(str(tmp_path))
    )
    trainer.fit(TinyModule(), TinyData())
    assert watch.seen == [{"learning_curves.png", "val_confusion_matrix.png"}] * 2


def test_nothing_is_drawn_of_a_sanity_check_or_an_earlier_fit(tmp_path: Path) -> None:
    module, curves = TinyModule(), {"learning_curves.png"}
    for name, settings in (("sanity", {"num_sanity_val_steps": 2}), ("again", {})):
        folder = tmp_path / name
        own = [FigureLogger(every_n_minutes=0)]
        trainer = tiny_trainer(folder, own, RunLogger(str(folder)), max_steps=3, **settings)
        trainer.fit(module, TinyData())
        assert module.metric_values, "the module knows some values"
        assert {path.name for path in (folder / "figures").iterdir()} == curves


def test_evaluation_draws_its_own(tmp_path: Path) -> None:
    for command in ("test", "validate"):
        trainer = tiny_trainer(tmp_path, [FigureLogger()], RunLogger(str(tmp_path)))
        getattr(trainer, command)(TinyModule(), TinyData(), verbose=False)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "test_confusion_matrix.png",
        "validate_confusion_matrix.png",
    }


def test_wandb_gets_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    loggers = [RunLogger(str(tmp_path)), RunWandbLogger(offline=True, folder=str(tmp_path))]
    tiny_trainer(tmp_path, [FigureLogger()], loggers).fit(TinyModule(), TinyData())
    for name in ("val_confusion_matrix", "learning_curves"):
        files = f"figures/{name}/filenames"
        (row,) = [row for row in history(tmp_path) if files in row]
        assert row["trainer/global_step"] == 11
        (media,) = row[files]
        (logged,) = tmp_path.glob(f"wandb/offline-run-*/files/{media}")
        assert logged.read_bytes() == (tmp_path / "figures" / f"{name}.png").read_bytes()


def test_a_module_without_validation_has_curves_only(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path, [FigureLogger()], RunLogger(str(tmp_path)), limit_val_batches=0
    )
    trainer.fit(TinyModule(), TinyData())
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["learning_curves.png"]


def test_negative_minutes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 0, got -1"):
        FigureLogger(every_n_minutes=-1)


def test_no_run_ends_by_a_figure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TinyModule):
        def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
            raise ValueError("10 class names do not\nfit")

    trainer = tiny_trainer(tmp_path, [FigureLogger()], RunLogger(str(tmp_path)))
    trainer.fit(Broken(), TinyData())
    said = [record.getMessage() for record in caplog.records if "could not" in record.getMessage()]
    assert said == ["trimtab: the figures of val could not be drawn: 10 class names do not fit"]
    assert (tmp_path / "figures" / "learning_curves.png").is_file()


def test_values_in_low_precision_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    class Low(TinyModule):
        def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
            seen.append({name: value.numpy().dtype for name, value in values.items()})
            return {}

    trainer = tiny_trainer(tmp_path, [FigureLogger()], False, precision="bf16-true")
    trainer.fit(Low(), TinyData())
    assert [record for record in caplog.records if "could not" in record.getMessage()] == []
    assert seen


class Artifacts(MLFlowLogger):
    """MLflow's logger over a client that refuses."""

    run_id = "7"  # type: ignore[assignment]

    def __init__(self) -> None:
        Logger.__init__(self)

    experiment = property(lambda self: self)  # type: ignore[assignment]


def test_a_failed_upload_is_not_a_failed_drawing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses(Artifacts):
        def log_artifact(self, run_id: str, path: str, folder: str) -> None:
            raise ConnectionError("no route to host")

        log_hyperparams = log_metrics = finalize = lambda *_, **__: None  # type: ignore[assignment]

    loggers = [RunLogger(str(tmp_path)), Refuses()]
    tiny_trainer(tmp_path, [FigureLogger()], loggers).fit(TinyModule(), TinyData())
    assert [line for line in caplog.messages if line.startswith("trimtab")] == [
        f"trimtab: figures/{name}.png could not be sent to Refuses: no route to host"
        for name in ("val_confusion_matrix", "learning_curves")
    ]
    assert len(list((tmp_path / "figures").iterdir())) == 2
