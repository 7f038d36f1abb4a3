"""Figures of embeddings: ROC curves, similarities of pairs, nearest neighbors."""
