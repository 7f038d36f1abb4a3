"""One LightningModule per domain."""

from modules.classifier.module import Classifier
from modules.regressor.module import Regressor

__all__ = ["Classifier", "Regressor"]
