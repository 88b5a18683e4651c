"""The frozen linear map of one prompt: who writes, who reads, and what each adds."""
