from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from PIL import Image

from framework.figures.score_table import Table
from framework.runs.csv_logger import RunLogger
from framework.runs.media import as_csv, as_markdown, log_figure, log_table

NAME = "<script>alert(1)</script>|*x*\n[a](b)"


class Board(TensorBoardLogger):
    """TensorBoard's logger over a writer that remembers."""

    def __init__(self) -> None:
        Logger.__init__(self)
        self.images: list[Any] = []
        self.texts: list[Any] = []

    experiment = property(lambda self: self)  # type: ignore[assignment]

    def add_image(self, name: str, pixels: Any, step: int, dataformats: str) -> None:
        self.images.append((name, pixels.shape, step, dataformats))

    def add_text(self, name: str, text: str, step: int) -> None:
        self.texts.append((name, text, step))


class Artifacts(MLFlowLogger):
    """MLflow's logger over a client that remembers."""

    run_id = "7"  # type: ignore[assignment]

    def __init__(self) -> None:
        Logger.__init__(self)
        self.files: list[Any] = []

    experiment = property(lambda self: self)  # type: ignore[assignment]

    def log_artifact(self, run_id: str, path: str, folder: str) -> None:
        self.files.append((run_id, Path(path).name, folder))

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self.files.append((run_id, text, path))


def trainer_with(*loggers: Any) -> Any:
    return SimpleNamespace(loggers=loggers, global_step=4)


def test_every_logger_of_pictures_gets_them_with_their_caption(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (5, 4)).save(path)
    board, other, artifacts = Board(), Board(), Artifacts()
    trainer = trainer_with(board, artifacts, RunLogger(str(tmp_path)), other)
    log_figure(trainer, "figures/a", path, "Accuracy: 3 of 4")
    assert board.images == other.images == [("figures/a", (4, 5, 3), 3, "HWC")]
    assert board.texts == [("figures/a/caption", "Accuracy: 3 of 4", 3)]
    assert artifacts.files == [
        ("7", "a.png", "figures"),
        ("7", "Accuracy: 3 of 4", "figures/a.txt"),
    ]


def test_names_in_a_table_mean_nothing_but_themselves(tmp_path: Path) -> None:
    board, artifacts = Board(), Artifacts()
    table = Table(f"Scores of {NAME}", ("class", "F1"), [(NAME, 0.123456), ("ok", 1)])
    log_table(trainer_with(board, artifacts, RunLogger(str(tmp_path))), "tables/a", table)
    ((name, text, step),) = board.texts
    assert (name, step) == ("tables/a", 3)
    escaped = r"\<script\>alert\(1\)\</script\>\|\*x\* \[a\]\(b\)"
    assert text.splitlines() == [
        f"Scores of {escaped}",
        "",
        "| class | F1 |",
        "| --- | --- |",
        rf"| {escaped} | 0\.1235 |",
        "| ok | 1 |",
    ]
    assert artifacts.files == [("7", as_csv(table), "tables/a.csv")]
    assert as_markdown(table) in text


def test_a_logger_that_fails_is_named_and_the_others_go_on(tmp_path: Path, caplog: Any) -> None:
    class Refuses(Artifacts):
        def log_text(self, *_: Any) -> None:
            raise OSError("no route\nto host")

    board = Board()
    log_table(trainer_with(Refuses(), board), "tables/a", Table("", ("x",), [(1,)]))
    assert caplog.messages == [
        "trimtab: the table tables/a could not be sent to Refuses: no route to host"
    ]
    assert len(board.texts) == 1
