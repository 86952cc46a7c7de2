"""Every format of training faces, each read as one `Source`."""
