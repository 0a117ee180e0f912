"""The method of arXiv 2205.14141: what the student is asked to match, and how the difference counts.

target      which tokens face each other       normalise   whitening and its rivals; hadamard: for PHI-S
head        one for each teacher               loss        one number for each image
config      imports no torch
"""
