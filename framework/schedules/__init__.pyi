from .cosine import WarmupCosine as WarmupCosine
from .inverse_decay import InverseDecay as InverseDecay
from .trapezoid import WarmupStableDecay as WarmupStableDecay
