"""Pure state machines. No I/O, no clock, no threads: they are told what happened and say what to do."""
