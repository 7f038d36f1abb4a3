"""Where a run writes, and which config a name stands for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing import Barrier, SimpleQueue, get_context
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import TCPStore

from framework.runs.checkpoint_argument import resolve_checkpoints, resolve_configs
from framework.runs.config_files import find_config, option
from framework.runs.folder_choice import choose_run_folder
from framework.runs.run_folder import set_aside
from framework.runs.run_record import HELD
from tests.helpers.runs import CONFIGS
from tests.helpers.tiny import save_state as save

RANKS = ("LOCAL_RANK", "RANK")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_RUN_FOLDER", "")  # so that what is set here is undone
    for name in list(os.environ):
        if name.startswith(("TRIMTAB_RUN", "SLURM_", "TORCHELASTIC_")) or name in RANKS:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def release() -> Iterator[None]:
    yield
    for held in list(HELD.values()):
        held.release()


def choose(*args: Any, **options: Any) -> Path:
    """Return the folder that a process chooses, which then ends."""
    folder = choose_run_folder(*args, **options)
    folder.release()
    return folder.path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says another time whenever it is asked."""
    ticks = iter("abcdef")
    monkeypatch.setattr(time, "strftime", lambda _: next(ticks))


@pytest.mark.parametrize("name", ["with/saf", "with/saf.yaml", "configs/with/saf.yaml"])
def test_an_installed_config_is_found_by_name(name):
    assert find_config(name) == str(CONFIGS / "with" / "saf.yaml")


def test_a_file_here_comes_before_an_installed_one():
    Path("classifier").write_text("model: mine\n")
    assert find_config("classifier") == "classifier"


def test_a_checkpoint_brings_its_config_and_its_folder():
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").touch()
    Path("run/checkpoints/best.ckpt").touch()
    args = ["test", "--ckpt_path=run/checkpoints/best.ckpt"]
    assert resolve_configs(args) == ["test", "--config", "run/config.yaml", args[1]]
    assert choose(args) == Path("run")
    assert resolve_configs(["test", "-c", "with/saf", args[1]])[1:3] == [
        "-c",
        str(CONFIGS / "with" / "saf.yaml"),
    ]
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint at elsewhere\.ckpt"):
        resolve_configs(["test", "--ckpt_path=elsewhere.ckpt"])
    Path("elsewhere.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.ckpt lies in no run folder"):
        resolve_configs(["test", "--ckpt_path", "elsewhere.ckpt"])


def test_a_run_folder_stands_for_its_checkpoint():
    checkpoints = Path("run/checkpoints")
    checkpoints.mkdir(parents=True)
    for command in ("fit", "test"):
        with pytest.raises(FileNotFoundError, match="There is no checkpoint in run"):
            resolve_checkpoints([command, "--ckpt_path=run"])
    save(checkpoints / "best.ckpt", step=2)
    assert (
        resolve_checkpoints(["fit", "--ckpt_path=run"])[1]
        == "--ckpt_path=run/checkpoints/best.ckpt"
    )
    save(checkpoints / "last.ckpt", step=4)
    for command, name in (("fit", "last"), ("test", "best")):
        for folder in ("run", "run/checkpoints"):
            args = resolve_checkpoints([command, "--ckpt_path", folder, "--x", "run"])
            assert args[2:] == [f"run/checkpoints/{name}.ckpt", "--x", "run"]


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (["--run_folder=mine"], "mine"),
        (["--config", "digits", "--name", "first"], "runs/digits/first"),
        (["--config=digits", "--name=first", "--trainer.default_root_dir=out"], "out/digits/first"),
    ],
)
def test_last_begins_a_named_run_and_goes_on_with_it(options, folder):
    for last in (["--ckpt_path", "last"], ["--ckpt_path=last"]):
        assert resolve_checkpoints(["fit", *options, *last, "-x"]) == ["fit", *options, "-x"]
    Path(folder, "checkpoints").mkdir(parents=True)
    save(Path(folder, "checkpoints/best.ckpt"), step=6)
    path = save(Path(folder, "checkpoints/last.ckpt"), step=8)
    found = resolve_checkpoints(["fit", *last, *options])
    assert found == ["fit", *options, "--ckpt_path", str(path)]
    places = {"exact": "mine"} if folder == "mine" else {"root": Path(folder).parts[0]}
    assert choose(found, name=None if folder == "mine" else "first", **places) == Path(folder)


def test_last_needs_the_name_of_a_run():
    said = "--ckpt_path last is that of a run which --name or --run_folder names, and neither is"
    with pytest.raises(ValueError, match=rf"{said} given\.$"):
        resolve_checkpoints(["fit", "--config=digits", "--ckpt_path=last"])
    for number, name in enumerate("bca"):
        Path(f"runs/digits/{name}/checkpoints").mkdir(parents=True)
        path = save(Path(f"runs/digits/{name}/checkpoints/best.ckpt"), step=1)
        os.utime(path, (number, number))
    for command, word in (("fit", "last"), ("test", "last"), ("predict", "best")):
        with pytest.raises(ValueError, match=r"; the newest run is --ckpt_path runs/digits/a\.$"):
            resolve_checkpoints([command, "--config=digits", f"--ckpt_path={word}"])


@pytest.mark.parametrize("options", [["--run_folder=runs/digits/a"], ["--name", "a"]])
def test_last_and_best_are_those_of_a_named_run(options):
    folder = Path("runs/digits/a/checkpoints")
    folder.mkdir(parents=True)
    best, last = save(folder / "best.ckpt", step=2), save(folder / "last.ckpt", step=4)
    for word, path in (("best", best), ("last", last)):
        for command in ("fit", "validate", "test", "predict"):
            args = [command, "--config=digits", *options, "--ckpt_path", word]
            assert resolve_checkpoints(args)[-2:] == ["--ckpt_path", str(path)]
    best.unlink()
    last.unlink()
    for word in ("best", "last"):
        with pytest.raises(FileNotFoundError, match="There is no checkpoint in runs/digits/a"):
            resolve_checkpoints(["test", "--config=digits", *options, "--ckpt_path", word])
    Path("best").touch()
    assert resolve_checkpoints(["test", "--ckpt_path=best"]) == ["test", "--ckpt_path=best"]


def test_a_checkpoint_that_slurm_left_in_a_former_version_is_one_of_its_run():
    Path("runs/classifier/slurm-8").mkdir(parents=True)
    Path("runs/classifier/slurm-8/config.yaml").touch()
    path = save(Path("runs/classifier/slurm-8/hpc_ckpt_1.ckpt"), step=3)
    args = resolve_configs(["fit", "--ckpt_path", str(path)])
    assert args[1:3] == ["--config", "runs/classifier/slurm-8/config.yaml"]
    assert choose(args) == path.parent
    assert resolve_checkpoints(["fit", "--ckpt_path", str(path.parent)])[2] == str(path)


def test_options_are_read_in_order():
    args = ["fit", "--config=a", "-c", "b", "--configs=no", "--config", "c", "--config"]
    assert option(args, "--config", "-c") == ["a", "b", "c"]


def test_a_run_has_a_folder_of_its_own_and_its_children_share_it(clock, monkeypatch):
    args = ["fit", "--config=some/place/digits.yaml"]
    assert choose(args) == Path("runs/digits/a")
    assert choose(args) == Path("runs/digits/b")
    monkeypatch.setenv("LOCAL_RANK", "1")  # as Lightning starts the other ranks
    assert choose(args) == Path("runs/digits/b")


def test_the_ranks_of_torchrun_agree(clock, monkeypatch):
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    folders = []
    for rank in ("0", "1"):
        monkeypatch.delenv("TRIMTAB_RUN_FOLDER", raising=False)
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("RANK", rank)
        folders.append(choose(["fit"]))
    assert folders == [Path("runs/run/a")] * 2


def test_two_runs_of_the_same_second_have_two_folders(monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    args = ["fit", "--config=digits.yaml"]
    found = [choose_run_folder(args, root="out") for _ in range(3)]
    assert [folder.path for folder in found] == [
        Path("out/digits", name) for name in ("now", "now-2", "now-3")
    ]


def choose_at_once(count: int, *args: Any, **options: Any) -> list[str]:
    """Return the folders that processes choose at once, sorted; a refusal where one had none."""
    ready, found = Barrier(count), SimpleQueue()

    def child() -> None:
        ready.wait()
        try:
            folder = choose_run_folder(*args, **options)
            found.put(str(folder.path))
        except FileExistsError as error:
            found.put(str(error))
        ready.wait()

    fork = get_context("fork")
    processes = [fork.Process(target=child) for _ in range(count)]
    for process in processes:
        process.start()
    answers = sorted(found.get() for _ in processes)
    for process in processes:
        process.join()
    return answers


def test_processes_that_start_at_once_have_folders_of_their_own(monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    names = sorted(f"out/digits/now{end}" for end in ("", "-2", "-3", "-4"))
    assert choose_at_once(4, ["fit", "--config=digits.yaml"], root="out") == names


@pytest.mark.parametrize("there", [False, True])
def test_of_processes_that_are_given_one_folder_one_has_it(there):
    for number, options in enumerate(({"name": "mine"}, {"exact": "mine"})):
        folder = Path("mine" if "exact" in options else "runs/run/mine")
        if there and "exact" in options:
            folder.mkdir()
        answers = choose_at_once(4, ["fit"], **options)
        assert sorted(answer == str(folder) for answer in answers) == [False] * 3 + [True], number
        assert sum("holds a run already" in answer for answer in answers) == 3


def test_the_ranks_of_two_jobs_of_torchrun_share_within_a_job_only(monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    ready, found = Barrier(4), SimpleQueue()
    agents = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in "ab"]

    def child(job: int, rank: int) -> None:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(agents[job].port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        rank_zero_only.rank = rank
        ready.wait()
        folder = choose_run_folder(["fit"])
        found.put((job, str(folder.path)))
        ready.wait()

    fork = get_context("fork")
    places = [(job, rank) for job in range(2) for rank in range(2)]
    processes = [fork.Process(target=child, args=place) for place in places]
    for process in processes:
        process.start()
    answers = sorted(found.get() for _ in processes)
    for process in processes:
        process.join()
    assert {path for _, path in answers} == {"runs/run/now", "runs/run/now-2"}
    assert len(set(answers)) == 2


def test_a_name_is_taken_once():
    args = ["fit", "--config=digits"]
    first = choose_run_folder(args, name="first")
    assert first.path == Path("runs/digits/first")
    with pytest.raises(
        FileExistsError, match="runs/digits/first holds a run already: choose anoth"
    ):
        choose_run_folder(args, name="first")
    for name in ("", "a/b", "..", ".hidden"):
        with pytest.raises(ValueError, match="name must be a name for a folder"):
            choose_run_folder(args, name=name)
    with pytest.raises(ValueError, match="name and run_folder"):
        choose_run_folder(args, name="a", exact="b")


def make_run(folder: Path) -> str:
    """Make what a run leaves, and return the option that goes on with it."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt"):
        (folder / name).touch()
    return f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"


def test_a_folder_that_holds_a_run_is_written_by_that_run_only():
    last = make_run(Path("out/digits/one"))
    with pytest.raises(FileExistsError, match="out/digits/one holds a run already"):
        choose_run_folder(["fit"], exact="out/digits/one")
    assert choose(["fit", last], exact="out/digits/one") == Path("out/digits/one")
    assert choose(["fit", last]) == Path("out/digits/one")
    below = ["fit", last, "--trainer.default_root_dir=out"]
    assert choose(below, root="out") == Path("out/digits/one")
    # from there to another place, or under another name, is another run
    config = "--config=out/digits/one/config.yaml"
    other = ["fit", config, last, "--trainer.default_root_dir=other"]
    assert choose(other, root="other").parent == Path("other/digits")
    assert choose(["fit", config, last], name="two") == Path("runs/digits/two")
    Path("empty").mkdir()
    assert choose(["fit"], exact="empty") == Path("empty")


def test_a_place_that_cannot_be_written_names_the_option(monkeypatch):
    Path("runs").touch()
    with pytest.raises(OSError, match=r"written: runs is a file; choose .*default_root_dir\.$"):
        choose_run_folder(["fit"])


def test_a_start_that_failed_leaves_nothing_and_a_run_stays():
    Path("out").mkdir()
    folder = choose_run_folder(["fit"], root="out")
    (folder.path / "config.yaml").touch()
    (folder.path / "wandb").mkdir()
    (folder.path / "wandb" / "log").touch()
    folder.clear(failed=False)
    assert (folder.path / "config.yaml").exists()
    folder.clear(failed=True)
    assert list(Path("out").iterdir()) == []
    # a folder that was there stays, and can be used again
    Path("out/data.csv").touch()
    folder = choose_run_folder(["fit"], exact="out")
    Path("out/config.yaml").touch()
    folder.clear(failed=True)
    assert [path.name for path in Path("out").iterdir()] == ["data.csv"]
    folder = choose_run_folder(["fit", "--config=wandb.yaml"], root="out")
    make_run(folder.path)
    folder.clear(failed=True)
    assert (folder.path / "metrics.csv").exists()


def test_earlier_results_are_set_aside():
    run = Path("run")
    assert set_aside(run, "predict") is None
    make_run(run)
    written = {"predictions.csv", "embeddings.npy", "config_predict.yaml", "detections/a.txt"}
    for name in (*written, "metrics_test.csv"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
        os.utime(run / name, (0, 0))
    os.utime(run / "detections", (0, 0))
    moved = []
    for _ in range(2):
        moved.append(set_aside(run, "predict"))
        (run / "predictions.csv").touch()
        os.utime(run / "predictions.csv", (0, 0))
    names = {str(path.relative_to(moved[0])) for path in moved[0].rglob("*") if path.is_file()}
    assert names == written
    assert [path.name for path in moved[1].iterdir()] == ["predictions.csv"]
    assert moved[1] == moved[0].with_name(f"{moved[0].name}-2")
    assert (run / "metrics_test.csv").exists()


@pytest.mark.parametrize("name", ["checkpoints", "figures", "earlier"])
def test_a_run_out_of_which_a_folder_leads_is_not_written(name):
    last = make_run(Path("run"))
    Path("thesis").mkdir()
    Path("run/wandb").mkdir()
    Path("run/inside").symlink_to("wandb")
    assert choose(["test", last]) == Path("run")
    if name == "checkpoints":
        Path("run/checkpoints").rename("thesis/checkpoints")
        Path("run/checkpoints").symlink_to("../thesis/checkpoints")
    else:
        Path("run", name).symlink_to("../thesis")
    for options in ({}, {"exact": "run"}):
        with pytest.raises(ValueError, match=rf"run/{name} is a link to /\S+, which lies out of"):
            choose_run_folder(["fit", last], **options)


def test_links_of_files_and_inside_of_folders():
    last = make_run(Path("run"))
    Path("thesis").mkdir()
    Path("run/config.yaml").touch()
    Path("run/logs/1").mkdir(parents=True)
    Path("run/wandb/run-1").mkdir(parents=True)
    Path("run/wandb/run-1/data.csv").symlink_to(Path("thesis/data.csv").absolute())
    Path("run/checkpoints/mine.ckpt").symlink_to(Path("thesis/mine.ckpt").absolute())
    Path("run/logs/latest").symlink_to("1")
    assert choose(["test", last]) == Path("run")
    for name in ("fit-times.txt", "logs/1/metrics.csv", "logs/2", ".predictions.csv.part0"):
        link = Path("run", name)
        link.symlink_to(Path("thesis", "absent").absolute())
        with pytest.raises(ValueError, match=rf"run/{name} is a link to /\S+, which lies out of"):
            choose_run_folder(["test", last])
        link.unlink()
    Path("run/config.yaml").unlink()
    Path("run/notes.txt").symlink_to(Path("thesis/notes.txt").absolute())
    assert choose(["test", last]) == Path("run")
