"""The parts of `experiments/miniature`."""
