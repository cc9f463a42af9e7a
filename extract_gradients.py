"""Write projected gradients of every sample of a dataset. Example:

python extract_gradients.py --dataset flowers102 --backbone dino_vitb16 --objective kl dino simclr --with-embeddings
"""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["extract-gradients"].main())
