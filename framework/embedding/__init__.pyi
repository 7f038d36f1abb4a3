from .box_whisker import box_whisker_bounds as box_whisker_bounds
from .pairs import Pairs as Pairs
from .unpg import UNPG as UNPG
