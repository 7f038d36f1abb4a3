from .module import ContrastiveLearner as ContrastiveLearner
from .network import build_encoder as build_encoder
from .network import build_projector as build_projector
