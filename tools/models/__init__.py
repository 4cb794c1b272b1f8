"""Stand-in models: small Gemma-4 GGUF files that the real llama-server serves like the real model.

```
shape        hyper-parameters: the trained stand-in, random ones of any size
tokenizer    a Gemma-4-style tokenizer that learns its own merges
vision       the projector's weights, designed so that a solid image's embedding is known exactly
files        GGUF writing and reading
random       random weights of any size
chats        what the stand-in knows; corpus: training samples made of it
network      the same network in PyTorch; train: teaches it the corpus (the only two that need torch)
carried      the trained stand-in that this repository carries, as a model repository at a fixed commit
```

`python -m tools.models --help` writes them.
"""
