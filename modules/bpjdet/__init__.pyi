from .anchors import P6_ANCHORS as P6_ANCHORS
from .anchors import best_possible_recall as best_possible_recall
from .anchors import fit_anchors as fit_anchors
from .network import BPJDetNetwork as BPJDetNetwork
