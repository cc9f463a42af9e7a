"""Import features that other programs computed: write them as feature files of our layout."""
