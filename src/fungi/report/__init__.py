"""Result files -> tables and plots, beside the published numbers."""
