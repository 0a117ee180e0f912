"""The loop and what it needs: schedule, parameter groups, run folder, guards. Knows steps, not their meaning.

loop        one step, and what happens every so often  task         what the loop asks of a task
schedule    learning rates by step                     optimizer    AdamW and its parameter groups
run_folder  what a run leaves behind                   resume       where a run begins, and forks
metrics     what is logged                             guard        loss spikes; bad_samples: counted, and too many
config      imports no torch
"""
