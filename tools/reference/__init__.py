"""What `make_reference.py` runs of published code, and nothing of that code."""
