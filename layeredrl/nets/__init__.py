"""Member networks, and how many of them run as one."""
