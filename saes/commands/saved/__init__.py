"""What ``interp sae`` does with saved SAEs, a module a command."""
