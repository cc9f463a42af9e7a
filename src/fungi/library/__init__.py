"""What surrounds `FUNGIWrapper`: saving, PCA, guards, and the doors to scikit-learn, `datasets` and faiss."""
