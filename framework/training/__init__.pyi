from .evaluation import EvaluationModule as EvaluationModule
from .module import TrainingModule as TrainingModule
from .objectives_callback import ObjectivesCallback as ObjectivesCallback
