"""Synthetic faces, drawn by a program: people of their own for the demo, the tests and first trials."""
