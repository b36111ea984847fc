"""Parts for other frameworks; each is imported only where its framework is used."""
