from .draws import Draws as Draws
from .effect import Effect as Effect
from .effect import acting as acting
from .effect import hyperparameters_of as hyperparameters_of
from .effects.input_dropout import InputDropout as InputDropout
from .effects.tuned_dropout import TunedDropout as TunedDropout
from .hyper_space import HyperSpace as HyperSpace
from .hyperparameter import HyperParameter as HyperParameter
