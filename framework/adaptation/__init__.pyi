from .bayes_refinement import bayes_refine as bayes_refine
from .class_discriminators import class_discriminator_loss as class_discriminator_loss
from .grouped_mlp import GroupedMLP as GroupedMLP
from .mimicking_loss import MimickingLoss as MimickingLoss
from .paired_sampling import PairedBatchSampler as PairedBatchSampler
