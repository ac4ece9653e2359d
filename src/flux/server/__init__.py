"""The control plane: what can be done with executions, and the loops that keep them going."""
