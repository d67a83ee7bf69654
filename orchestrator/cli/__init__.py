"""The command line. It parses, asks a use case, and shows; it decides nothing."""

import gc
import os

# Loading the libraries makes many objects and no garbage: looking for some is a tenth of a command's start.
# `cli.context` turns it on again once they are loaded.
gc.disable()
# Validation has no plugins here; looking for some goes through all that is installed.
NO_PLUGINS = ("PYDANTIC_DISABLE_PLUGINS", "__all__")
os.environ.setdefault(*NO_PLUGINS)
