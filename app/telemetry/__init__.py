"""What is told of requests: log lines, metrics and traces. Knows no service."""
