"""ChatGLM3-6B: ChatGLM2's architecture, asked in roles."""
