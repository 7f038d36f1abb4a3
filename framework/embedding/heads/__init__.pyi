from .arcface import ArcFaceHead as ArcFaceHead
from .cosface import CosFaceHead as CosFaceHead
from .head import ClassificationHead as ClassificationHead
from .normface import NormFaceHead as NormFaceHead
