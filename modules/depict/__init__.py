"""Deep clustering without labels."""
