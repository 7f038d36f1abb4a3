from .pairs import Pairs as Pairs
