from .averaged_weights import AveragedWeights as AveragedWeights
from .lion import LionK as LionK
from .parameter_groups import decay_norm_bias_groups as decay_norm_bias_groups
