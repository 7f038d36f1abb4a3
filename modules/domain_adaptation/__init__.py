"""Image classification in a domain without labels, from another one that has them."""

from modules.domain_adaptation.alignment import Aligned, Alignment
from modules.domain_adaptation.cdan import CDAN
from modules.domain_adaptation.dann import DANN
from modules.domain_adaptation.mdd import MDD

__all__ = ["CDAN", "DANN", "MDD", "Aligned", "Alignment"]
