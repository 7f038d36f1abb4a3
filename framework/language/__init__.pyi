from .language_model import LanguageModel as LanguageModel
from .language_model import load_language_model as load_language_model
from .text import pack as pack
from .text import read_texts as read_texts
