"""Evaluate kNN on every combination of features: python knn_concat.py --dataset flowers102 --backbone vit-b16."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["knn"].main())
