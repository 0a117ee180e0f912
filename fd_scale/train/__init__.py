"""The loop and what it needs: schedule, parameter groups, run folder, preemption. Knows steps, not their meaning."""
