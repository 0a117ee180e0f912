"""Functions that make one model run on many ranks, over modules and dicts. DeepSpeed appears only here.

ranks         process group and agreement           run_lease    rank 0 holds the lease of a run for all
engine        sharded construction, both engines    whole_parts  what must not be a collective
recompute     and its policy                        ema          the moving average, in shards
evaluation    a plain copy of a sharded model       host_memory  what the allocator keeps
deepspeed_config  two files, one configuration      config       imports no torch
checkpoint/   saving and loading, on any number of ranks
"""
