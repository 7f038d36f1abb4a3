from .module import NestedClassifier as NestedClassifier
from .network import NestedNetwork as NestedNetwork
