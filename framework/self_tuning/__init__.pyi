from .draws import Draws as Draws
from .hyper_space import HyperSpace as HyperSpace
from .hyperparameter import HyperParameter as HyperParameter
