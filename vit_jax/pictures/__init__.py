"""Pictures of a run. The only room that imports matplotlib."""
