"""Index a folder of pictures without labels, and write a page with the nearest neighbours of a picture."""
