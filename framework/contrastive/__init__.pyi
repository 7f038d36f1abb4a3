from .individual_contrast import AnchorTerms as AnchorTerms
from .individual_contrast import individual_contrast as individual_contrast
from .nt_xent import NTXentLoss as NTXentLoss
from .robust_contrastive import RobustContrastiveLoss as RobustContrastiveLoss
