"""Parts of the library around `FUNGIWrapper`: saving, PCA, checks, adapters to scikit-learn, `datasets` and faiss."""
