from .module import Regressor as Regressor
from .network import RegressorNetwork as RegressorNetwork
