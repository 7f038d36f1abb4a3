"""One piece alone is light: it brings neither Lightning nor another domain."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest

from tests.helpers.configs import one_of_many
from tests.helpers.runs import ROOT

HEAVY = (
    "lightning",
    "wandb",
    "matplotlib",
    "timm",
    "torchjd",
    "sklearn",
    "transformers",
    "datasets",
    "pycocotools",
)
DOMAINS = (
    "framework.detection",
    "framework.sparse_coding",
    "framework.clustering",
    "framework.adaptation",
    "framework.language",
    "framework.contrastive",
    "framework.graphs",
    "framework.energy",
    "modules.classifier",
    "modules.coteaching",
    "modules.depict",
    "modules.domain_adaptation",
    "modules.gghl",
    "modules.language_model",
    "modules.nested",
    "modules.random_features",
    "modules.regressor",
    "modules.sae",
)
# what is imported, and what it may bring: a heavy package, the files of a domain
PIECES = {
    "from trimtab import CompSumLoss": (),
    "from trimtab import LionK": (),
    "from trimtab import rotated_nms": ("framework.detection",),
    "from trimtab import min_norm_weights": (),
    "from framework.losses import AggregateResponseLoss, ALDRLoss, CompSumLoss, CSIBLoss": (),
    "from framework.losses import EnsLoss, SmoothAdversarialCompSumLoss": (),
    "from framework.ops import conditional_cs_divergence, gaussian_gram, prefix_predictions": (),
    "from framework.layers import GlobalDropout, NestedDropout, SyncBatchNorm": (),
    "from framework.optim import LionK": (),
    "from framework.schedules import InverseDecay, WarmupCosine, WarmupStableDecay": (),
    "from framework.gradients import EPO, HeldOutGuidedLP, TorchJD, min_norm_weights": (),
    "from framework.attacks import PGDAttack": (),
    "from framework.objectives import Objectives, reduce_objectives": (),
    "from framework.distributed import SampleState, gather": (),
    "from framework.data import ArrayDataset, GlobalBatchSampler, IndexedDataset": (),
    "from framework.runs.wandb_logger import RunWandbLogger": (
        "lightning",
        # by torchmetrics
        "matplotlib",
        "transformers",
    ),
    "from framework.detection import ORC, merge_tiles, quad_to_orc, rotated_iou, rotated_nms": (
        "framework.detection",
    ),
    "from framework.detection import JointAveragePrecision, MissMatchingRate": (
        "framework.detection",
        # by torchmetrics
        "matplotlib",
        "transformers",
    ),
    "from framework.sparse_coding import MutualChoice, TokenChoice, SparseCode, fit_zipf": (
        "framework.sparse_coding",
    ),
    "from framework.clustering import dec_target_distribution": ("framework.clustering",),
    "from framework.adaptation import GroupedMLP, bayes_refine": ("framework.adaptation",),
    "from framework.contrastive import NTXentLoss, RobustContrastiveLoss": (
        "framework.contrastive",
    ),
    "from framework.graphs import PamCLoss, adjacency_powers": ("framework.graphs",),
    "from framework.energy import CompositionalMLELoss, EnergyMLP": ("framework.energy",),
    "from framework.solvers import LaplacianClustering": (),
    "from modules.classifier import ClassifierNetwork": ("modules.classifier",),
    "from modules.depict import DEPICTNetwork": ("modules.depict", "framework.clustering"),
    "from modules.domain_adaptation import AdaptationNetwork": (
        "modules.domain_adaptation",
        "modules.classifier",
        "framework.adaptation",
    ),
    "from modules.gghl import GGHLNetwork, decode": ("modules.gghl", "framework.detection"),
    "from modules.language_model import LSTMNetwork": ("modules.language_model",),
    "from modules.nested import NestedNetwork": ("modules.nested", "modules.classifier"),
    "from modules.random_features import RandomFeatureNetwork": ("modules.random_features",),
    "from modules.regressor import RegressorNetwork": ("modules.regressor",),
    "from modules.sae import SparseAutoencoder": ("modules.sae", "framework.sparse_coding"),
}
# every piece is imported in a process of its own, which has torch already
PROGRAM = """
import json, os, sys, traceback
import numpy, torch
for statement in json.load(sys.stdin):
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            exec(statement)
            # a package of lazy names alone weighs nothing
            loaded = sys.modules.items()
            found = [n for n, m in loaded if "." not in n or not hasattr(m, "__path__")]
        except Exception:
            found = [traceback.format_exc()]
        with os.fdopen(writer, "w") as file:
            json.dump(found, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        print(json.dumps([statement, json.load(file)]))
"""


# it takes half a minute to bring these
HEAVY_PIECES = {statement for statement, brought in PIECES.items() if {*brought} & {*HEAVY}}


@functools.cache
def imported(heavy: bool) -> dict[str, list[str]]:
    """Return what each light or heavy piece imports, by statement; a traceback where it fails."""
    statements = [name for name in PIECES if (name in HEAVY_PIECES) == heavy]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "statement", [one_of_many(name, quick=name not in HEAVY_PIECES) for name in PIECES]
)
def test_a_piece_alone_is_light(statement):
    modules = imported(statement in HEAVY_PIECES)[statement]
    assert "torch" in modules, modules
    assert [name for name in HEAVY if name in modules and name not in PIECES[statement]] == []
    others = tuple(f"{domain}." for domain in DOMAINS if domain not in PIECES[statement])
    assert [name for name in modules if name.startswith(others)] == []


@pytest.mark.parametrize(
    "line", ["reprot", "--help", "configs", "fit --config clasifier", "fit --config"]
)
def test_what_needs_no_torch_is_answered_without_it(line):
    code = f"""
import sys, trimtab
try:
    trimtab.main({line.split()!r})
except SystemExit:
    pass
print(sorted({{"torch", "lightning", "jsonargparse"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
