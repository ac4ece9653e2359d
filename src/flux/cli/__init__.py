"""The `flux` command: parses, asks the app, prints."""
