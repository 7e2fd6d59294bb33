"""What survives the daemon: clients' parameters, pins, and whose state directory it is."""
