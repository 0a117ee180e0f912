"""The diagnosis tools of arXiv 2205.14141, each a function of tensors or of a module: `explained_variance`."""
