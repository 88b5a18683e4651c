"""Training reads activations from a store: it needs no model, and must not load what loads models."""

import subprocess
import sys


def test_training_does_not_import_transformer_lens() -> None:
    """It would be 330 MB in every process that trains."""
    code = "import sys, saes.training.loop; print(sorted({'transformer_lens', 'nnsight'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
