"""Write embeddings. Example:

python extract.py --dataset flowers102 --backbone dino_vitb16
"""

from fungi.extraction.extract import main

raise SystemExit(main())
