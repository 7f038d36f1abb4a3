from .alignment import Aligned as Aligned
from .alignment import Alignment as Alignment
from .cdan import CDAN as CDAN
from .dann import DANN as DANN
from .mdd import MDD as MDD
from .module import DomainAdaptation as DomainAdaptation
from .network import AdaptationNetwork as AdaptationNetwork
