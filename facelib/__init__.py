"""What all stages must agree on: formats, metrics, sidecars, reports, errors. Layer 0 of the import law."""
