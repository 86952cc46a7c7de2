"""A recipe: its tables and keys (schema), its TOML form (toml), what must hold between keys (rules)."""
