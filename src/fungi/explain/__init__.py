"""Which samples one feature classifies correctly and another does not, as a page."""
