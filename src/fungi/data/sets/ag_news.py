"""`ag-news`: news articles by topic (spec text 2)."""

from fungi.data.formats.text_tables import TextTable, register_table

TABLE = TextTable(
    dataset="ag-news",
    repository="fancyzhx/ag_news",
    class_names=("World", "Sports", "Business", "Sci/Tech"),
)
register_table(TABLE, title="AG News topics", sizes={"train": 120000, "test": 7600}, notes="few-shot with 10 per class")
