"""What ends a process from outside of its steps: signals that ask for it, and hangs. For every loop, ours or not."""
