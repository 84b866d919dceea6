"""A small ImageReward: its network with weights by the hash of their names, its tokenizer, pictures and prompts."""

import torch

from distar_core.rewards.imagereward import make_network as build_network
from tools.golden_rewards import fill, picture

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "two", "dogs"]
PROMPTS = ["a red cat", "two dogs"]
HEADS, TEXT_HEADS = 2, 3
SETTINGS = {
    "width": 32,
    "depth": 2,
    "heads": HEADS,
    "vocab_size": len(WORDS) + 2,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": TEXT_HEADS,
    "max_position_embeddings": 40,
}
IMAGES = torch.stack([picture(224, 224), picture(224, 224).flip(1)]) / 255


def make_tokenizer(words=WORDS):
    from transformers import BertTokenizer

    return BertTokenizer({word: number for number, word in enumerate(words)})


def make_network(**changes):
    network = build_network(**SETTINGS | changes)
    fill(network.state_dict())
    return network
