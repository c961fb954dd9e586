"""Training: the state, the step, evaluation and the loop."""
