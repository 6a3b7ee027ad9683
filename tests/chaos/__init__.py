"""Faults and load against a real server on this machine: `make chaos`. Bounded in count and time; loopback only."""
