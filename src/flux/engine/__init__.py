"""The engine: replays bodies exactly, and lets no call act before its cause is on disk."""
