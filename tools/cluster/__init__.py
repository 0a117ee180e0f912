"""The parts of `tools/cluster`."""
