"""How fast and how large: ratios within one run. `python -m benchmarks.asdet` prints a table and JSON."""
