"""One LightningModule per domain."""

from modules.classifier.module import Classifier
from modules.coteaching.module import CoTeaching
from modules.depict.module import DEPICT
from modules.domain_adaptation.module import DomainAdaptation
from modules.gghl.module import GGHL
from modules.nested.module import NestedClassifier
from modules.regressor.module import Regressor
from modules.sae.module import SparseAutoencoderModule

__all__ = [
    "DEPICT",
    "GGHL",
    "Classifier",
    "CoTeaching",
    "DomainAdaptation",
    "NestedClassifier",
    "Regressor",
    "SparseAutoencoderModule",
]
