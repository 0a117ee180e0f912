"""What makes one model run on many ranks: plain functions over modules and dicts. DeepSpeed appears only here."""
