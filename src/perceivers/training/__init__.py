"""What trains a model: optimisers, schedules, checkpoints, averages and random states, and the loop that uses them."""
