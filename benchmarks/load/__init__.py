"""The load generator behind `python -m benchmarks.latency`: arrivals, connections, figures and reports."""
