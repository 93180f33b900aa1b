"""The OpenAI-compatible server of `vega3d serve`, on the serving code of transformers."""
