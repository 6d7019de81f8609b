"""Measures speed and size of the whole system on loopback: `python -m benchmarks`, or `make bench`."""
