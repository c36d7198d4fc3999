"""From a predictions file to numbers, tables and figures; reads files, never a model."""
