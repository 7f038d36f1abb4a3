from .averaged_weights import AveragedWeights as AveragedWeights
from .empirical_fisher import EmpiricalFisherInverse as EmpiricalFisherInverse
from .lion import LionK as LionK
from .parameter_groups import decay_norm_bias_groups as decay_norm_bias_groups
from .target_closure import StepProblem as StepProblem
from .target_closure import Target as Target
from .target_closure import TargetClosure as TargetClosure
from .window import GradientWindow as GradientWindow
