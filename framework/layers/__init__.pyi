from .drop_block import GlobalDropBlock as GlobalDropBlock
from .dropout import GlobalDropout as GlobalDropout
from .gradient_reversal import ReversalSchedule as ReversalSchedule
from .gradient_reversal import reverse_gradient as reverse_gradient
from .nested_dropout import NestedDropout as NestedDropout
from .sync_batchnorm import SyncBatchNorm as SyncBatchNorm
from .sync_batchnorm import convert_sync_batchnorm as convert_sync_batchnorm
