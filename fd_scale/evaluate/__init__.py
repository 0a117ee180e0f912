"""Measures of what a backbone or a classifier is worth on labelled images.

features    frozen ones of a backbone          knn, linear     accuracy by them; probes: both as verbs
validation  of a classifier                    training_probe  kNN during training
wise_ft     mixtures of two classifiers        classes         what the rows of a classifier stand for
config      imports no torch
"""
