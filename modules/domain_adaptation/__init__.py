"""Image classification in a domain without labels, from another one that has them."""
