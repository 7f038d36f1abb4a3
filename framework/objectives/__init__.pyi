from .errors import IncompatibleError as IncompatibleError
from .objectives import Objectives as Objectives
from .reduction import ReducedObjectives as ReducedObjectives
from .reduction import reduce_objectives as reduce_objectives
