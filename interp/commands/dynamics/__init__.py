"""Commands about what happens inside a model while it trains; each measures one model, or its checkpoints."""
