"""What the command line, the Python API and the tools call: train, localize, evaluate."""
