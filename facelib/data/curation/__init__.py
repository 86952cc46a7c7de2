"""Looks at a training set and mends it: inspection, cleaning, balancing, overlap with a verification set."""
