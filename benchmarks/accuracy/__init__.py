"""What accuracy on real photographs should be compared with."""
