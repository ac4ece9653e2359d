"""What can be seen from outside: output of tasks, logs, metrics."""
