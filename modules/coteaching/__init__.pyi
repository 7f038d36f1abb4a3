from .module import CoTeaching as CoTeaching
from .small_loss import SmallLossSelector as SmallLossSelector
