"""Classification from features that are ordered by importance."""
