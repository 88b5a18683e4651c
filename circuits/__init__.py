"""Circuits: patching, attribution, relevance and circuit graphs over the places that `interp` names."""
