"""Change latents and see what follows, on one prompt or while text is generated."""
