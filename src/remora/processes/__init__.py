"""Driver, worker, node daemon and zygote: where threads, loops and effects live."""
