"""The command line. It parses, asks a use case, and shows; it decides nothing."""

import gc

# Loading the libraries makes many objects and no garbage: looking for some is a tenth of a command's start.
# `cli.context` turns it on again once they are loaded.
gc.disable()
