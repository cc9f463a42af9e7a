"""A folder of pictures without labels: index once, then the nearest neighbours of any picture as a page."""
