"""The commands of `palate`, one file for each part of the flow; `cli` puts them together."""
