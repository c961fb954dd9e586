"""The run folder: its files, its checkpoints, its metrics. The only room that imports orbax."""
