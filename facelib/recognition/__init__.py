"""Photos compared with each other (1:1) and searched in a gallery (1:N)."""
