"""The verbs, each a module of its own: a function, and what its command line needs beside it. Imports nothing heavy."""
