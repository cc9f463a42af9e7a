"""One loss per file: embeddings `[b v d]` -> one loss per sample `[b]`; the engine sums."""
