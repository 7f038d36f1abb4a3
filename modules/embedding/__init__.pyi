from .few_shot import PrototypicalNetwork as PrototypicalNetwork
