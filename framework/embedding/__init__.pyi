from .box_whisker import box_whisker_bounds as box_whisker_bounds
from .pair_lists import balanced_pairs as balanced_pairs
from .pairs import Pairs as Pairs
from .unpg import UNPG as UNPG
