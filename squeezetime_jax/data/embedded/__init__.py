"""The data sets that are made here."""
