from .activations import Activations as Activations
from .file import ActivationFile as ActivationFile
