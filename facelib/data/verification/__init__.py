"""Verification sets on disk: InsightFace's .bin files and lists of pairs."""
