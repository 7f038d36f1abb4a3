"""Two networks that select training samples for each other."""
