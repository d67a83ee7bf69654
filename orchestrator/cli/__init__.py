"""The command line. It parses, asks a use case, and shows; it decides nothing."""
