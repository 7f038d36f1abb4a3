from .module import TransductiveFewShot as TransductiveFewShot
