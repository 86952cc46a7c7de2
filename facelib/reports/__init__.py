"""HTML pages, tables and plots from the results files of a run."""
