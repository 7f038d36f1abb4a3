from .anchor_grid import AnchorGrid as AnchorGrid
from .anchors import P6_ANCHORS as P6_ANCHORS
from .anchors import best_possible_recall as best_possible_recall
from .anchors import fit_anchors as fit_anchors
from .assignment import AnchorAssigner as AnchorAssigner
from .assignment import Assignment as Assignment
from .assignment import unreachable_share as unreachable_share
from .network import BPJDetNetwork as BPJDetNetwork
