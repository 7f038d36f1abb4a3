from .module import RandomFeatures as RandomFeatures
from .network import RandomFeatureNetwork as RandomFeatureNetwork
