"""The dictionaries of the public directory that SAELens publishes, by release and id."""
