from .face import FaceEmbedder as FaceEmbedder
from .few_shot import PrototypicalNetwork as PrototypicalNetwork
from .module import MetricLearner as MetricLearner
from .novel_class import NovelClassClassifier as NovelClassClassifier
