from .module import EnergyModel as EnergyModel
