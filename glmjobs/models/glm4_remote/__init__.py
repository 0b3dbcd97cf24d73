"""GLM-4-9B as it was published first, for remote code: ChatGLM3's architecture, another tokenizer."""
