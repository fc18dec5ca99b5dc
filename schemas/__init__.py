"""Table contracts: pure data, one file a table, in the order in which the data flows. Imports nothing of ours."""
