"""How many latents are active while an SAE is trained: at the start, and on the way to a number that was asked for."""
