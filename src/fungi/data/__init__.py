"""Raw samples: index -> (item, label), one file per dataset. Nothing here resizes, crops or normalises."""
