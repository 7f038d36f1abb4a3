"""Where the command writes: a folder for each run, and nothing over what another has written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

import trimtab
from framework.command import cli
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET

TWO_STEPS = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", *QUIET]
BASE = [*arguments("classifier"), *TWO_STEPS]

pytestmark = pytest.mark.usefixtures("elsewhere")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_writes_nothing_over_the_first():
    trimtab.main(["fit", *BASE, "--trainer.default_root_dir=out", "--name=first"])
    first = Path("out/classifier/first")
    before = files(first)
    assert {"config.yaml", "metrics.csv"} <= {path.name for path in first.iterdir()}
    saved = yaml.safe_load((first / "config.yaml").read_text())
    assert saved["trainer"]["default_root_dir"] == "out"
    assert saved["checkpoint"]["dirpath"] is None
    assert not {"name", "run_folder"} & set(saved)
    trimtab.main(["fit", *BASE, "--trainer.default_root_dir=out"])
    # the config of a run names the place of all runs, not its own
    trimtab.main(["fit", f"--config={first / 'config.yaml'}", *TWO_STEPS])
    assert files(first) == before
    runs = list(Path("out/classifier").iterdir())
    assert len(runs) == 3
    assert all((run / "checkpoints" / "last.ckpt").is_file() for run in runs)


def test_a_config_of_an_earlier_version_does_not_name_its_own_folder_again(capsys):
    trimtab.main(["fit", *BASE, "--run_folder=old"])
    saved = yaml.safe_load(Path("old/config.yaml").read_text())
    saved["trainer"]["default_root_dir"] = "old"
    saved["checkpoint"]["dirpath"] = saved["last_checkpoint"]["dirpath"] = "old/checkpoints"
    Path("old/config.yaml").write_text(yaml.safe_dump(saved))
    before = files(Path("old"))
    trimtab.main(["fit", "--config=old/config.yaml", *TWO_STEPS])
    assert files(Path("old")) == before
    (run,) = Path("runs").glob("*/*")
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_a_start_that_failed_leaves_no_folder(capsys):
    with pytest.raises(SystemExit):
        trimtab.main(["fit", *BASE, "--model.input_shape=[1,9,9]"])
    assert "input_shape" in capsys.readouterr().err
    broken = ["--allow=tests", "--data=tests.test_command.BrokenData", "--data.batch_size=1"]
    broken += ["--model.num_classes=10", "--model.input_shape=[1,8,8]"]
    with pytest.raises(SystemExit):
        trimtab.main(["fit", *arguments("classifier"), *broken, "--trainer.limit_val_batches=0"])
    assert "is bad" in capsys.readouterr().err
    assert list(Path().rglob("*")) == []


def test_a_taken_name_is_refused_in_one_line(capsys):
    Path("runs/classifier/first/checkpoints").mkdir(parents=True)
    with pytest.raises(SystemExit):
        trimtab.main(["fit", *BASE, "--name=first"])
    said = capsys.readouterr().err
    assert said.startswith("trimtab: runs/classifier/first holds a run already: choose another na")
    assert said.count("\n") == 1
    assert [path.name for path in Path("runs/classifier/first").iterdir()] == ["checkpoints"]


def test_a_second_prediction_keeps_the_first(capsys):
    trimtab.main(["fit", *BASE, "--run_folder=run"])
    for batches in (1, 2):
        more = [f"--trainer.limit_predict_batches={batches}", *QUIET]
        trimtab.main(["predict", "--ckpt_path=run", *more])
    assert "results of the predict before: run/earlier/predict_" in capsys.readouterr().out
    (earlier,) = Path("run/earlier").iterdir()
    assert {path.name for path in earlier.iterdir()} == {"predictions.csv", "config_predict.yaml"}
    rows = [
        len((folder / "predictions.csv").read_text().splitlines())
        for folder in (earlier, Path("run"))
    ]
    assert rows[1] > rows[0] > 1


def test_what_is_refused_leaves_the_run_as_it_was(capsys):
    epochs = ["--trainer.limit_train_batches=1", "--trainer.max_steps=-1"]
    trimtab.main(["fit", *BASE, *epochs, "--run_folder=run", "--trainer.max_epochs=3"])
    before = files(Path("run"))
    last = "--ckpt_path=run/checkpoints/last.ckpt"
    for command in (["fit", "--trainer.max_epochs=1"], ["test", "--config=regressor"]):
        with pytest.raises(SystemExit):
            trimtab.main([*command, last, *QUIET])
    assert "trainer.max_epochs is less than" in capsys.readouterr().err
    assert files(Path("run")) == before


class RemoveRun(Callback):
    """Removes the run folder after a step, as a person might."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            shutil.rmtree(trainer.default_root_dir)


def test_a_run_whose_folder_is_removed_loses_nothing():
    steps = {"max_steps": 5, "val_check_interval": 2, "limit_val_batches": 1}
    steps |= {"log_every_n_steps": 1}
    given = [f"--trainer.{name}={value}" for name, value in steps.items()]
    args = ["fit", *arguments("classifier"), *given, *QUIET]
    trimtab.import_configurable_classes()
    cli.run([*args, "--run_folder=whole"])
    with pytest.warns(UserWarning, match="run, or a file in it, was removed while its") as said:
        cli.run([*args, "--run_folder=run"], [RemoveRun()])
    assert sum("was removed" in str(one.message) for one in said) == 1
    for name in ("config.yaml", "metrics.csv"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
    kept = {path.name for path in Path("run/checkpoints").iterdir()}
    assert kept == {path.name for path in Path("whole/checkpoints").iterdir()}
    assert {"best.ckpt", "last.ckpt"} <= kept


def test_a_full_disk_ends_a_run_and_says_how_to_go_on(small_disk, capsys):
    run = small_disk / "run"
    with pytest.raises(SystemExit) as stop:
        trimtab.main(["fit", *BASE, f"--run_folder={run}"])
    assert stop.value.code == 1
    said, go_on = capsys.readouterr().err.splitlines()[-2:]
    assert re.fullmatch(
        rf"trimtab: {run}/\S+ could not be written: no space left on device\.", said
    )
    last = run / "checkpoints" / "last.ckpt"
    assert go_on == f"trimtab: continue with trimtab fit --ckpt_path {last}"
    assert not list(run.rglob("*.part"))
    # the one that was written before is whole
    assert torch.load(last, weights_only=True)["global_step"] == 2
