from .generate import generate_text as generate_text
from .module import LSTMLanguageModel as LSTMLanguageModel
from .network import LSTMNetwork as LSTMNetwork
