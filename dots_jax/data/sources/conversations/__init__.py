"""Records of conversations in the shapes of public data sets -> messages. Pure functions; standard library only.

turns.py              a list of messages, and the rules that hold for all formats
messages.py           OpenAI's and ShareGPT's lists of messages
instructions.py       Alpaca, BELLE, dolly, GSM8K, a map of fields
prompt_completion.py  TRL
moss.py coig.py oasst.py
formats.py            their names, and which of them a record has
"""
