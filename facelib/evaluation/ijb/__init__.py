"""The protocols of IJB-B and IJB-C, 1:1 and 1:N."""
