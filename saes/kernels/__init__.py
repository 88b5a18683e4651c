"""The sparse products of an SAE, forward and backward, each behind one function that picks a backend by device.

``encode`` and ``decode`` are what the rest of the package calls; ``dispatch`` names the four products that a backend
has, ``reference`` says in plain PyTorch what they are, ``cpu`` and ``gpu`` are fast.
"""
