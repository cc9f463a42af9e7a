"""Retrieval-based segmentation: from images and masks to a bank of patches, and from its neighbours to mIoU."""
