"""What the command line makes of files, folders and numbers."""
