"""The parts of `tools/reference`, which run published code and hold nothing of that code."""
