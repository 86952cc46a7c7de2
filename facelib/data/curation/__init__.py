"""Inspects and improves training sets: inspection, cleaning, balancing, overlap with a verification set."""
