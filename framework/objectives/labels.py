"""What labels mean to losses and metrics alike."""

IGNORE_INDEX = -100
"""Label of a row that no loss and no metric counts, the default of torch's losses."""
