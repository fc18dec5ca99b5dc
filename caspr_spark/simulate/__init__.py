"""Seeded generators of raw tables. Everything that they write is synthetic."""
