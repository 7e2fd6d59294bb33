"""What the daemon and its child processes say to each other."""
