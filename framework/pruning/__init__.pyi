from .obs import remove_weights as remove_weights
from .obs import saliencies as saliencies
from .sparsity_schedule import cubic_sparsity as cubic_sparsity
from .weight_pruner import WeightPruner as WeightPruner
