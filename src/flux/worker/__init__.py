"""The data plane: processes that run executions."""
