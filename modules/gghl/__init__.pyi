from .assignment import Assignment as Assignment
from .assignment import OrientedGaussianAssigner as OrientedGaussianAssigner
from .cells import Cells as Cells
from .decoding import Boxes as Boxes
from .decoding import decode as decode
from .loss import JointOptimizationLoss as JointOptimizationLoss
from .module import GGHL as GGHL
from .network import GGHLNetwork as GGHLNetwork
