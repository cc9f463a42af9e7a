"""Landmark retrieval over every combination: python retrieval_eval.py --dataset paris-landmarks --backbone vit-b16."""

from fungi.scoring.retrieval_eval import main

raise SystemExit(main())
