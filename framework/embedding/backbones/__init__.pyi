from .build import build_backbone as build_backbone
from .convnet4 import ConvNet4 as ConvNet4
from .iresnet import IResNet as IResNet
from .load_insightface import load_insightface as load_insightface
from .mlp import MLPEmbedder as MLPEmbedder
from .mobilefacenet import MobileFaceNet as MobileFaceNet
from .timm_embedder import TimmEmbedder as TimmEmbedder
