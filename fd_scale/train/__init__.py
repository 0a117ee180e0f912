"""The loop and what it needs: schedule, parameter groups, run folder, guards. Knows steps, not their meaning."""
