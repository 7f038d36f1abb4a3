"""Image classification with any backbone and any loss that fits."""
