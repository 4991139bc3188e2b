"""Files, tables and named data sets → samples → batches. Knows no network."""
