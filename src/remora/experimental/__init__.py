"""What programs use that look below the surface of Ray: the internal key-value store."""
