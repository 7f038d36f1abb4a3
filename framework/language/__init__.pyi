from .language_model import LanguageModel as LanguageModel
from .language_model import load_language_model as load_language_model
from .text import pack_tokens as pack_tokens
from .text import read_texts as read_texts
from .vocabulary import Vocabulary as Vocabulary
