"""Write a random projection matrix. Example (ViT-B/16, attention output projection):

python generate_projection_matrix.py --projection-dim 768 --gradients-dim 590592 --output-path vit-b.pth
"""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["projection"].main())
