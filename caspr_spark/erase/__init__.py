"""Customers leave every table and file below a root, and reading all of it proves that they did."""
