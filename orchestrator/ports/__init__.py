"""What the loop needs from the world, as narrow protocols. Drivers implement them, tests fake them."""
