from .attack import Attack as Attack
from .attack import under_attack as under_attack
from .pgd import PGDAttack as PGDAttack
from .wasserstein import penalized_ascent as penalized_ascent
