"""kNN over every combination of features: python knn_concat.py --dataset flowers102 --backbone vit-b16."""

from fungi.scoring.knn_concat import main

raise SystemExit(main())
