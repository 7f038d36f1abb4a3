from .module import DEPICT as DEPICT
from .network import DEPICTNetwork as DEPICTNetwork
from .network import MultiLayerDenoisingAE as MultiLayerDenoisingAE
