"""Write embeddings of a dataset. Example:

python extract.py --dataset flowers102 --backbone dino_vitb16
"""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["extract"].main())
