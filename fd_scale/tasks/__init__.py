"""Tasks, which say what a run is for: each puts the parts together and says what a batch means.

job            what all training shares, and `Parts`, which is what a task brings
distillation   and distillation_plan, which is what its plan brings    finetuning   and finetuning_plan
job_plan       a job as text, before it runs                           job_memory   its memory on a rank
config         the root configurations, which only the tasks receive; imports no torch
"""
