"""A run folder from elsewhere: its config is named, can be left out, and writes below it only."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

import trimtab
from framework.command.path_arguments import keep_below
from framework.runs.version_0_1 import current_config
from tests.helpers.runs import QUIET, ROOT

RUN = ROOT / "tests" / "version_0_1" / "classifier_aldr"
FEW = [f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test", "predict")]
TEST = ["test", "--ckpt_path=run", *FEW, *QUIET]


@pytest.fixture
def run(elsewhere: Path) -> Path:
    """Return a run folder that somebody else has written."""
    shutil.copytree(RUN, elsewhere / "run")
    (elsewhere / "out").mkdir()
    return Path("run")


def change(run: Path, change_config: Callable[[dict[str, Any]], Any]) -> None:
    config = current_config(yaml.safe_load((run / "config.yaml").read_text()))
    change_config(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def files_outside(run: Path) -> set[str]:
    folder = run.absolute().parent.parent
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {path for path in paths if not path.startswith("cwd/run/")}


def entry(path: str, /, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


LIGHTNING = "lightning.pytorch"


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        trimtab.main(args)
    assert stop.value.code in (1, 2)
    return capsys.readouterr().err


def folders(config: dict[str, Any]) -> None:
    """Name a folder outside of the run wherever one can be named."""
    config |= {"run_folder": "out/there"}
    config["checkpoint"]["dirpath"] = "~/models"
    config["last_checkpoint"]["dirpath"] = "memory://out"
    config["trainer"] |= {
        "default_root_dir": "out",
        "profiler": entry(f"{LIGHTNING}.profilers.SimpleProfiler", dirpath="out", filename="a"),
        "logger": [
            entry(f"{LIGHTNING}.loggers.CSVLogger", save_dir="out"),
            entry("framework.runs.RunLogger", folder="../cwd/out"),
        ],
        "callbacks": [
            entry(f"{LIGHTNING}.callbacks.ModelCheckpoint", dirpath="out", filename="more"),
            entry(f"{LIGHTNING}.callbacks.OnExceptionCheckpoint", dirpath="out"),
            entry("callbacks.PredictionWriter", path="out/predictions.csv"),
        ],
    }


def names(config: dict[str, Any]) -> None:
    """Name what lies in the run so that it would lie outside."""
    config |= {"name": "there"}
    config["checkpoint"]["filename"] = "../../out/best"
    config["last_checkpoint"]["filename"] = "/tmp/trimtab-out/last"
    csv = f"{LIGHTNING}.loggers.CSVLogger"
    config["trainer"] |= {
        "profiler": entry(f"{LIGHTNING}.profilers.SimpleProfiler", filename="../out/times"),
        "logger": [
            entry(csv, save_dir="run", name="../out"),
            entry(csv, save_dir="run", name="a", version="../../out/1"),
        ],
    }


LEFT_OUT = {
    folders: [
        "checkpoint.dirpath '~/models'",
        "last_checkpoint.dirpath 'memory://out'",
        "trainer.callbacks[0].dirpath 'out'",
        "trainer.callbacks[1].dirpath 'out'",
        "trainer.callbacks[2].path 'out/predictions.csv'",
        "trainer.logger[0].save_dir 'out'",
        "trainer.logger[1].folder '../cwd/out'",
        "trainer.profiler.dirpath 'out'",
    ],
    names: [
        "checkpoint.filename '../../out/best'",
        "last_checkpoint.filename '/tmp/trimtab-out/last'",
        "trainer.logger[0].name '../out'",
        "trainer.logger[1].version '../../out/1'",
        "trainer.profiler.filename '../out/times'",
    ],
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:Be aware that when using")
@pytest.mark.parametrize("hostile", LEFT_OUT)
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_it_writes_below_the_run_only(hostile, command, run, capsys):
    change(run, hostile)
    before = files_outside(run)
    more = ["--trainer.max_epochs=9"] if command == "fit" else []
    trimtab.main([command, "--ckpt_path=run/checkpoints/last.ckpt", *FEW, *QUIET, *more])
    assert files_outside(run) == before
    assert not Path("/tmp/trimtab-out").exists()
    first, told = capsys.readouterr().err.splitlines()[:2]
    assert first == "trimtab: config of the checkpoint: run/config.yaml"
    listed = re.fullmatch(
        r"trimtab: run/config\.yaml came along with the checkpoint and may write below run only, "
        r"without (.*); --config run/config\.yaml takes it as it is\.",
        told,
    )
    assert listed is not None
    assert sorted(listed.group(1).split(", ")) == LEFT_OUT[hostile]


def save_metrics_outside(config: dict[str, Any]) -> None:
    config["trainer"]["logger"] = [entry(f"{LIGHTNING}.loggers.CSVLogger", save_dir="out")]


def keep_checkpoints_outside(config: dict[str, Any]) -> None:
    config["checkpoint"]["dirpath"] = "out"


def test_the_person_decides(run, capsys):
    change(run, save_metrics_outside)
    trimtab.main(["test", "--config=run/config.yaml", "--ckpt_path=run", *FEW, *QUIET])
    said = capsys.readouterr().err
    assert "config of the checkpoint" not in said
    assert "came along" not in said
    assert list(Path("out").rglob("metrics.csv"))


def test_an_option_decides(run, capsys):
    change(run, keep_checkpoints_outside)
    given = ["--checkpoint.dirpath=out", "--trainer.max_epochs=9"]
    trimtab.main(["fit", "--ckpt_path=run/checkpoints/last.ckpt", *given, *FEW, *QUIET])
    assert "came along" not in capsys.readouterr().err
    assert list(Path("out").glob("*.ckpt"))


def test_a_cache_that_is_there_is_used(run, capsys):
    def section_with(folder: str) -> Namespace:
        arguments = Namespace(root="images", cache_dir=folder)
        return Namespace(data=Namespace(class_path="datamodules.ImageTiles", init_args=arguments))

    Path("cache/train").mkdir(parents=True)
    config = section_with("cache")
    assert keep_below(config, run, lambda _: True) == ["data.cache_dir 'cache'"]
    assert config.data.init_args.cache_dir is None
    Path("cache/train/tiling.json").touch()
    config = section_with("cache")
    assert keep_below(config, run, lambda _: True) == []
    assert config.data.init_args.cache_dir == "cache"
    assert keep_below(section_with("run/tiles"), run, lambda _: True) == []


def test_the_folder_s_config_is_not_read_where_the_person_gives_one(run, capsys):
    mine = Path("mine.yaml")
    shutil.copy(run / "config.yaml", mine)
    (run / "config.yaml").write_text("model: [")
    assert "run/config.yaml is not valid YAML" in refusal(TEST, capsys)
    trimtab.main([*TEST, "--config=mine.yaml"])
    assert "config of the checkpoint" not in capsys.readouterr().err
    assert (run / "metrics_test.csv").is_file()


def test_a_config_that_is_a_link(run, capsys):
    shutil.move(run / "config.yaml", "mine.yaml")
    (run / "config.yaml").symlink_to(Path("mine.yaml").absolute())
    assert "run/config.yaml is a link to" in refusal(TEST, capsys)
    with pytest.raises(ValueError, match="lies out of the run folder; name the config"):
        trimtab.load("run")
    # it would be written through, too
    assert "run/config.yaml is a link to" in refusal([*TEST, "--config=mine.yaml"], capsys)
    trimtab.main([*TEST, "--config=mine.yaml", "--run_folder=results"])
    assert Path("results/metrics_test.csv").is_file()
