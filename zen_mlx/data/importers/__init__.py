"""Data of other programs -> examples, one module per origin.

rows, lines    messages, prompt/completion, text, ShareGPT, Alpaca in .jsonl and .json; whole texts
table          .csv and .tsv with a column map
mail           mbox            whatsapp, telegram, slack, imessage    chats, made conversations by `chat`
entries, read  files, folders and archives; which format a file has
scrub, phones  secrets and contacts out        tally    what was left out, and why
"""
