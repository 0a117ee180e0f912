"""The method of arXiv 2205.14141: what the student is asked to match, and how the difference counts."""
