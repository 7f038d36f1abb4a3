from .network import BPJDetNetwork as BPJDetNetwork
