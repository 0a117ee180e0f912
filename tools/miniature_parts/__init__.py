"""The parts of `tools/miniature.py`."""
