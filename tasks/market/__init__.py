"""Bars: features, labels, folds and synthetic markets. Pure."""
