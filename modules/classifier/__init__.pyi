from .module import Classifier as Classifier
from .network import ClassifierNetwork as ClassifierNetwork
