"""Training records on disk and in memory: the TFRecord format, the data directory, sampling and augmentation."""
