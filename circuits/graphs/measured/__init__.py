"""Edges held against the model, on one prompt and on others."""
