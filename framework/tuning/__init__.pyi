from .figures import study_figures as study_figures
from .samplers import default_sampler as default_sampler
from .samplers import make_pruner as make_pruner
from .samplers import make_sampler as make_sampler
from .trials_table import trials_table as trials_table
from .trials_table import write_trials as write_trials
