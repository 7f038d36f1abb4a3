"""Every overlay goes with every config, or is refused at start-up with a one-line message."""

from __future__ import annotations

import pytest
import torch
import yaml

import trimtab
from tests.helpers.configs import OVERLAYS, TERMS, arguments, base_of, kinds_of_overlays, systems
from tests.helpers.ranks import RankError
from tests.helpers.runs import CONFIGS, QUIET, fit, fit_on_two_ranks, terms

ONE_STEP = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", *QUIET]
ON_TWO_RANKS = ("with/ddp", "with/fsdp2")
BARE = ["--trainer.limit_val_batches=0", "--trainer.logger=false"]


def start(args: list[str]) -> None:
    """Run one step on this process or rank."""
    torch.set_num_threads(1)
    trimtab.main(["fit", *args])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_trains_and_validates_what_it_is_for(overlay, tmp_path, two_ranks):
    args = [*arguments(base_of(overlay), overlay), *ONE_STEP, "--trainer.limit_val_batches=1"]
    args = [*args, f"--run_folder={tmp_path}"]
    if overlay in ON_TWO_RANKS:
        two_ranks(start, args)
    else:
        start(args)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "metrics.csv").is_file()


@pytest.mark.parametrize("overlay", kinds_of_overlays())
@pytest.mark.parametrize("system", systems())
def test_runs_or_is_refused(system, overlay, tmp_path, data_folder, two_ranks, capsys):
    args = arguments(system, overlay, data=data_folder)
    args = [*args, *ONE_STEP, *BARE, f"--run_folder={tmp_path}"]
    if overlay in ON_TWO_RANKS:
        try:
            two_ranks(start, args)
        except RankError as error:
            if overlay != "with/fsdp2" or "use the strategy ddp" not in str(error):
                raise
            return
        assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
        return
    try:
        start(args)
    except SystemExit:
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        said = [line for line in lines if line.startswith("trimtab: ")]
        assert len(said) == 1, lines
        assert said[0].endswith(".")
        assert not (tmp_path / "checkpoints").exists()
    else:
        assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("overlay", sorted(TERMS))
def test_the_term_of_an_overlay_is_active(overlay, tmp_path):
    args = [*arguments(base_of(overlay), overlay), f"--run_folder={tmp_path}"]
    record = fit([*args, "--trainer.max_epochs=2"])
    assert terms(record.steps[-1])[TERMS[overlay]] > 1e-9


def printed_config(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    with pytest.raises(SystemExit) as stop:
        trimtab.main(["fit", *args, "--print_config"])
    assert stop.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("overlay", ["with/lion", "with/aldr"])
def test_a_changed_class_keeps_no_argument_of_the_old_one(overlay, capsys, tmp_path):
    shown = printed_config(arguments("classifier", overlay), capsys)["model"]["init_args"]
    overlaid = yaml.safe_load((CONFIGS / f"{overlay}.yaml").read_text())["model"]["init_args"]
    (name, wanted), *_ = overlaid.items()
    # the class's own defaults, asked for without any config below
    bare = printed_config(
        [
            "--model=Classifier",
            "--data=Digits",
            f"--model.{name}={wanted['class_path']}",
            *[f"--model.{name}.{k}={v}" for k, v in wanted["init_args"].items()],
        ],
        capsys,
    )["model"]["init_args"]
    assert shown[name] == bare[name]


def test_a_flag_that_changes_a_class_drops_the_old_arguments(capsys):
    args = [*arguments("classifier"), "--model.optimizer=SGD", "--model.optimizer.lr=0.1"]
    optimizer = printed_config(args, capsys)["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["weight_decay"] == 0
    assert "betas" not in optimizer["init_args"]


def test_overlays_append_callbacks_in_order(capsys):
    shown = printed_config(arguments("classifier", "with/saf", "with/mesa"), capsys)
    names = [c["class_path"].rpartition(".")[2] for c in shown["trainer"]["callbacks"]]
    assert names == ["SAF", "MESA"]


def test_the_stack_of_the_readme_runs_on_two_ranks(tmp_path, two_ranks):
    args = arguments("classifier", "with/saf", "with/lion")
    record = two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path}", *ONE_STEP])[0]
    assert record.steps
