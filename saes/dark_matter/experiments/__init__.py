"""What is measured with the parts of the error."""
