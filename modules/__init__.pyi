from .classifier import Classifier as Classifier
from .coteaching import CoTeaching as CoTeaching
from .depict import DEPICT as DEPICT
from .domain_adaptation import DomainAdaptation as DomainAdaptation
from .gghl import GGHL as GGHL
from .nested import NestedClassifier as NestedClassifier
from .regressor import Regressor as Regressor
from .sae import SparseAutoencoderModule as SparseAutoencoderModule
