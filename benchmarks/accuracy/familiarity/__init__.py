"""What familiarity is worth: photos without food, classes never seen, bad input, the size of the bank, and its cost."""
