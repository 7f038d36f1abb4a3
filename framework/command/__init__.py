"""The command line: parsing, error messages and reports."""
