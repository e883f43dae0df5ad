"""`make story`: dots.llm1's report in small, from web pages to a page of figures."""
