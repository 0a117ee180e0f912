"""Studies with the library, each a package to run from the checkout: `python -m experiments.NAME`."""
