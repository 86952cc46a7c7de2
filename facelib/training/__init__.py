"""The training loop and its parts.

trainer.py has the loop, step.py one training step, stage_setup.py what a stage trains with, recipe/ the configuration,
run_dir.py and checkpoint.py the files that a resume needs, epoch_files.py the models that each epoch writes.
"""
