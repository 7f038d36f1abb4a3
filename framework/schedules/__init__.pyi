from .cosine import WarmupCosine as WarmupCosine
from .inverse_decay import InverseDecay as InverseDecay
from .momentum_warmup import MomentumWarmupCosine as MomentumWarmupCosine
from .non_monotonic import NonMonotonicDecay as NonMonotonicDecay
from .polynomial import WarmupPolynomial as WarmupPolynomial
from .trapezoid import WarmupStableDecay as WarmupStableDecay
