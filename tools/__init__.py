"""Programs for developers: benchmarks, chaos, makers of fixtures. Run from the checkout: `python -m tools.NAME`."""
