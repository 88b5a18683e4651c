"""How weights take a step: Adam with what belongs to it, and the memory that steps use again."""
