"""What a bundle's graphs are made of: operators, arithmetic, weights."""
