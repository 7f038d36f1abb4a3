"""From DOTA's files to merged result files and back, on real images."""

from __future__ import annotations

import shutil

import pytest
import torch

import trimtab
from datamodules.dota.classes import CLASS_NAMES
from datamodules.dota.labels import read_labels
from datamodules.dota.results import evaluate_results
from framework.detection.result_files import read_results
from framework.detection.rotated.iou import rotated_iou
from framework.detection.rotated.nms import rotated_nms
from tests.helpers.data import shared_data
from tests.helpers.runs import CONFIGS, QUIET

NAMES = CLASS_NAMES["1.0"]


def prepare(folder):
    """Copy the four training tiles of DOTA8 and the 531 ships of P0706 side by side."""
    for kind in ("images", "labelTxt"):
        (folder / kind).mkdir(parents=True)
        shutil.copytree(shared_data("dota8", kind, "train"), folder / kind, dirs_exist_ok=True)
        (file,) = shared_data("dota_sample", kind).glob("P0706.*")
        shutil.copy(file, folder / kind)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fit_predict_merge_and_score_real_images(tmp_path):
    prepare(tmp_path / "dota")
    args = [
        f"--config={CONFIGS / 'gghl.yaml'}",
        "--model.num_classes=15",
        "--model.widths=[16,32,64,96,128]",
        "--model.neck_width=64",
        "--data=DOTA",
        f"--data.root={tmp_path / 'dota'}",
        "--data.image_size=512",
        "--data.gap=100",
        "--data.train=.",
        "--data.val=.",
        "--data.empty_tiles=false",
        f"--data.cache_dir={tmp_path / 'tiles'}",
        "--data.batch_size=4",
        "--data.eval_batch_size=8",
        "--data.augment=null",
        "--checkpoint.monitor=null",
        "--trainer.log_every_n_steps=1",
        f"--run_folder={tmp_path / 'run'}",
        *QUIET,
    ]
    steps = ["--trainer.max_steps=400", "--trainer.max_epochs=-1"]
    trimtab.main(["fit", *args, *steps, "--trainer.check_val_every_n_epoch=20"])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    trimtab.main(["test", *args, f"--ckpt_path={last}"])
    trimtab.main(["predict", *args, f"--ckpt_path={last}"])

    folder = tmp_path / "run" / "detections"
    names = sorted(path.stem for path in (tmp_path / "dota" / "labelTxt").glob("*.txt"))
    assert len(names) == 5
    assert sorted(path.stem for path in folder.glob("*.png")) == names
    values = evaluate_results(folder, tmp_path / "dota" / "labelTxt", NAMES)
    # what was logged on merged tiles is what the files say
    header, *rows = (tmp_path / "run" / "metrics_test.csv").read_text().split()
    logged = float(dict(zip(header.split(","), rows[-1].split(","), strict=True))["test/map_50"])
    assert float(values["map_50"]) == pytest.approx(logged, abs=1e-4)
    assert logged > 0.3
    # objects over the whole of the large image are found, each once
    found = read_results(folder, names, NAMES)[names.index("P0706")]
    truth = read_labels(tmp_path / "dota" / "labelTxt" / "P0706.txt", NAMES)
    ships = found["scores"] > 0.3
    hits = rotated_iou(truth.quads.double(), found["boxes"][ships].double()).amax(1) > 0.5
    assert float(hits.float().mean()) > 0.5
    kept = rotated_nms(found["boxes"], found["scores"], 0.35, labels=found["labels"])
    assert len(kept) == len(found["scores"])
    for axis in range(2):
        assert float(found["boxes"][ships][..., axis].max()) > 1000
    assert torch.isfinite(found["boxes"]).all()
