"""One LightningModule per domain."""

from modules.classifier.module import Classifier

__all__ = ["Classifier"]
