"""Demos: the main tasks on data that come with the project or its packages."""
