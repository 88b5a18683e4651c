"""Graphs as other tools have them: the JSON of Neuronpedia and circuit-tracer, both ways."""
