"""What a driver and a worker have in common: refs, objects, submitting calls."""
