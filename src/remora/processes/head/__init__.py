"""The head: a process beside the daemon of one node, with the state of the whole cluster in a database."""
