"""Graphs as other tools have them: the JSON of Neuronpedia and circuit-tracer, both ways."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
