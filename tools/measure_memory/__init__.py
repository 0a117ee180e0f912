"""The parts of `tools/measure_memory`.

processes   resident memory, as Linux counts it     live      live tensor bytes, from the profiler's events
on_rank     the program of each rank                running   a measured job, and its figures
"""
