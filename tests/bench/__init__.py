"""What `make bench` measures, side by side on this machine."""
