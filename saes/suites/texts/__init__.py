"""Texts with labels, and what a model and an SAE make of them."""
