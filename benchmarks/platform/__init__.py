"""Measurements of recallfront itself, one file a question; `recallfront bench` prints them, tests hold them."""
