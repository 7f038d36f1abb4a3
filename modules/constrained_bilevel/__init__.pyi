from .hyper_cleaning import HyperCleaning as HyperCleaning
from .module import ConstrainedBilevel as ConstrainedBilevel
from .svm import ConstrainedSVM as ConstrainedSVM
