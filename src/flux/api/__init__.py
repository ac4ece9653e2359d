"""The HTTP API: parses, authorises, and hands to the control plane."""
