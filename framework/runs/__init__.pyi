from .checkpoint_io import AtomicCheckpointIO as AtomicCheckpointIO
from .csv_logger import RunLogger as RunLogger
from .csv_logger import read_metrics as read_metrics
from .fully_sharded import FullyShardedStrategy as FullyShardedStrategy
from .preemption import PreemptionCheckpoint as PreemptionCheckpoint
from .resume import ExactResume as ExactResume
from .run_checkpoint import RunCheckpoint as RunCheckpoint
from .wandb_logger import RunWandbLogger as RunWandbLogger
