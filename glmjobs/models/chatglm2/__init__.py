"""ChatGLM2-6B: its architecture and tokenizer, which ChatGLM3-6B has too."""
