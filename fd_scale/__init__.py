"""Feature distillation (arXiv 2205.14141) of pretrained vision models, from a laptop CPU to many nodes."""

__version__ = "0.1.0"
