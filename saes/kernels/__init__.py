"""Sparse encode: dense pre-activations forward, work for the selected entries alone backward."""
