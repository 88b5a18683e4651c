"""What a training step is made of: the state, the terms of the loss, the update of the weights, the logged figures."""
