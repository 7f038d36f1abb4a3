from .accuracy_under_attack import correct_under_attack as correct_under_attack
from .accuracy_under_attack import robust_accuracy as robust_accuracy
from .bag_calibration import BagCalibrationError as BagCalibrationError
from .embedding_sample import EmbeddingSample as EmbeddingSample
from .embedding_sample import EmbeddingSnapshot as EmbeddingSnapshot
from .prefix_accuracy import PrefixAccuracy as PrefixAccuracy
from .r2_score import R2Score as R2Score
from .sample_pairs import SamplePairs as SamplePairs
