from .cauchy_schwarz import conditional_cs_divergence as conditional_cs_divergence
from .cauchy_schwarz import cs_mutual_information as cs_mutual_information
from .kernels import gaussian_gram as gaussian_gram
from .kernels import log_gaussian_gram as log_gaussian_gram
from .kernels import median_heuristic as median_heuristic
from .kernels import squared_distances as squared_distances
from .prefix import prefix_logits as prefix_logits
from .prefix import prefix_predictions as prefix_predictions
