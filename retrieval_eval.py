"""Evaluate landmark retrieval: python retrieval_eval.py --dataset paris-landmarks --backbone vit-b16."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["retrieval"].main())
