"""The stores: one log, kept by different databases."""
