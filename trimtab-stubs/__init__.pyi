# What a type checker sees of the single module ``trimtab``, whose names are imported lazily.
from collections.abc import Sequence
from pathlib import Path

from callbacks import *
from datamodules import *
from datamodules.body_parts import *
from datamodules.faces import *
from framework.adaptation import *
from framework.attacks import *
from framework.clustering import *
from framework.contrastive import *
from framework.data import *
from framework.detection import *
from framework.detection.body_parts import *
from framework.distributed import *
from framework.dynamics import *
from framework.embedding import *
from framework.embedding.backbones import *
from framework.embedding.heads import *
from framework.embedding.metrics import *
from framework.energy import *
from framework.gradients import *
from framework.graphs import *
from framework.language import *
from framework.layers import *
from framework.losses import *
from framework.metrics import *
from framework.objectives import *
from framework.ops import *
from framework.optim import *
from framework.pruning import *
from framework.runs import *
from framework.schedules import *
from framework.self_tuning import *
from framework.solvers import *
from framework.sparse_coding import *
from framework.training import *
from framework.tuning import *
from framework.tuning.acquisition import *
from modules import *
from modules.bpjdet import *
from modules.classifier import *
from modules.constrained_bilevel import *
from modules.contrastive_learner import *
from modules.coteaching import *
from modules.depict import *
from modules.domain_adaptation import *
from modules.embedding import *
from modules.energy_model import *
from modules.few_shot import *
from modules.gghl import *
from modules.graph_clustering import *
from modules.language_model import *
from modules.nested import *
from modules.random_features import *
from modules.regressor import *
from modules.sae import *

__version__: str

def load(
    checkpoint: str | Path, allow: Sequence[str] = (), model: EvaluationModule | None = None
) -> EvaluationModule: ...
def import_configurable_classes() -> None: ...
def main(args: Sequence[str] | None = None) -> None: ...
