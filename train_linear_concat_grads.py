"""Linear probing of nested combinations: python train_linear_concat_grads.py --dataset pets --backbone vit-b16."""

from fungi.scoring.train_linear_concat_grads import main

raise SystemExit(main())
