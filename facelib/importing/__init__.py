"""Reads the trained nets of other systems into Keras models like ours; import_model.py is the script.

kinds.py finds the kind of a file by its content and has the table of readers, a module a kind. job.py has what a reader
gets and gives, finish.py compares the result with the original and writes it.
"""
