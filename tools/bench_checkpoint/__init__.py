"""The parts of `tools/bench_checkpoint`."""
