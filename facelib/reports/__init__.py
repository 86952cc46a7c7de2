"""HTML pages, tables and plots from the report files and the training log of a run.

A page is read in `read_run`, laid out in `run_page` or `comparison`, and written by the templates
of templates/. `artefact_table` is the table that report.py prints, `export_table` the one of export_all.py;
`verification_plots` and `training_plots` draw the figures.
"""
