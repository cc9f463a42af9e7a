"""Readers of the file formats of datasets: image folders, masks, text tables, sounds, saved datasets, archives."""
