"""Item -> views. Pure and seeded by (seed, objective, sample id), never by batch order.

Each generator has two halves: `prepare` runs in the loader's workers (decode, crop: 8-bit), `render` runs batched
on the device (patches, normalisation: float).
"""
