"""The control plane: operator, local platform and the command line."""
