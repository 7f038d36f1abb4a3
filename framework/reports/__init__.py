"""Reports of runs: what a run folder says, as pages in HTML that need nothing else."""
