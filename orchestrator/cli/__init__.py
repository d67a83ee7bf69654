"""The command line. It parses, asks a use case, and shows; it decides nothing."""

import gc

# Loading the libraries makes many objects and no garbage: looking for some is a fifth of a command's start.
gc.set_threshold(100_000)
