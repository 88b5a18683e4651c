"""The model run clean, corrupt and changed."""
