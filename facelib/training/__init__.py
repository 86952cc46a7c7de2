"""The training loop: recipe, schedules, optimizers, step, checkpoint, run directory."""
