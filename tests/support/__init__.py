"""What real-neighbour tests share: private installations, guest images, private hosts."""
