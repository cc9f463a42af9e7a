"""Features that other programs computed: from their files to feature files of our layout."""
