"""The method: an SAE's error in its linear and nonlinear parts."""
