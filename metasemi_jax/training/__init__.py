"""The run around the step: load, loop, evaluate, record, save, stop and resume."""
