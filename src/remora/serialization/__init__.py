"""Values to bytes and back: zero-copy buffers, the refs inside a value, errors."""
