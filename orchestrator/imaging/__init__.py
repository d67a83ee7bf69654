"""Images into and out of the repository: recipes built, files imported, versions removed."""
