"""The verbs, each a module of its own: a function, and what its command line needs beside it. Imports nothing heavy.

The function is typed and states its defaults, once. A verb that is a job names its configuration, its run and its plan
as well (`job`). `registry` has one line for each verb, and `verb` makes a command line from a signature.
"""
