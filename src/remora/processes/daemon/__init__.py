"""The node daemon: owns the arena, the directory of objects, the workers and their leases, and the actors."""
