"""A `Source` becomes a data directory, and a data directory becomes folders again."""
