"""What the laws stand on: virtual time, a simulated process, and a table of bodies."""
