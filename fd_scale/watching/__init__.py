"""What a run looks like from outside, while it trains and afterwards, from any host that sees its folder.

`record` is what rank 0 writes down for it, `failure` what a rank writes of its end, `endpoint` serves the same to
Prometheus. `state` reads a run folder, `words` says it to people, `logs` merges what the ranks have logged.

Imports no torch, so that looking at a run costs nothing.
"""
