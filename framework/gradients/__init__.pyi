from .combiner import Combination as Combination
from .combiner import GradientCombiner as GradientCombiner
from .combiner import GradientFacts as GradientFacts
from .combiner import WeightedSum as WeightedSum
from .exact_pareto import EPO as EPO
from .held_out_lp import HeldOutGuidedLP as HeldOutGuidedLP
from .min_norm import min_norm_weights as min_norm_weights
from .torch_jd import TorchJD as TorchJD
