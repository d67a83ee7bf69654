"""What is rendered, compared with files that a reader can check."""
