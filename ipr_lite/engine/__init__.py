"""How it is fast, durable and measured; nothing here changes a result."""
