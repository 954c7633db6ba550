"""A worker process: runs tasks, or one actor."""
