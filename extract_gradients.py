"""Write projected per-sample gradients. Example:

python extract_gradients.py --dataset flowers102 --backbone dino_vitb16 --objective kl dino simclr --with-embeddings
"""

from fungi.extraction.extract_gradients import main

raise SystemExit(main())
