"""Synthetic faces, drawn by a program, for the demo, the tests and first trials without face data."""
