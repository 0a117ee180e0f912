"""Checkpoints in one format of our own, for any ZeRO stage, any number of ranks, and plain modules.

tensor_file   safetensors in pieces          storage     a folder or an fsspec URL
state         what a rank holds              zero, plain who holds what
writer        saving in the background       retention   which to keep
reader        any run of any tensor          loader      all ranks together
"""
