"""Every message that crosses a process boundary, and how frames of them are written and read."""
