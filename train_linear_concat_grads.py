"""Evaluate linear classifiers: python train_linear_concat_grads.py --dataset pets --backbone vit-b16."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["linear"].main())
