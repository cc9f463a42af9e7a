"""Parts of the library around `FUNGIWrapper`: saving, PCA, checks, use with scikit-learn, `datasets` and faiss."""
