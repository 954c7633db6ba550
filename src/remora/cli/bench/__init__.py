"""``remora bench``: named rows, measured on Remora and on a peer in alternating pairs."""
