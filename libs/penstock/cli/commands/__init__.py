"""What `penstock` can be asked to do: a file per command, or per family of commands that ask alike."""
