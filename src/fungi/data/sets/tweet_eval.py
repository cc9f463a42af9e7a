"""`tweet-eval`: tweets; the class is the emoji that the tweet contained, 20 classes (spec text 2)."""

from fungi.data.formats.text_tables import TextTable, register_table

EMOJI = "❤ 😍 😂 💕 🔥 😊 😎 ✨ 💙 😘 📷 🇺🇸 ☀ 💜 😉 💯 😁 🎄 📸 😜"
TABLE = TextTable(
    dataset="tweet-eval",
    repository="cardiffnlp/tweet_eval",
    configuration="emoji",
    class_names=tuple(EMOJI.split()),
)
register_table(TABLE, title="TweetEval, emoji", sizes={"train": 45000, "valid": 5000, "test": 50000})
