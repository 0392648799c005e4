"""The temporal alignment network in torch, written from mptva.md section 10 and in its names: the tests' reference."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, ffn):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, ffn), "c_proj": nn.Linear(ffn, width)})

    def forward(self, x, padding):
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, key_padding_mask=padding, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden)), normed


class Stack(nn.Module):
    def __init__(self, width, heads, ffn, layers):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, ffn) for _ in range(layers))

    def forward(self, x, padding, last_norm):
        """Stages: normed inputs of the blocks after the first, then the end of the residual stream, normed."""
        stages = []
        for number, block in enumerate(self.resblocks):
            x, normed = block(x, padding)
            if number > 0:
                stages.append(normed)
        return [*stages, last_norm(x)]


class Words(nn.Module):
    def __init__(self, words, inner, hidden, out):
        super().__init__()
        self.word_embd = nn.Embedding(words, inner)
        self.fc1, self.fc2 = nn.Linear(inner, hidden), nn.Linear(hidden, out)

    def forward(self, ids):
        keep = ids != 0
        keep[keep.sum(-1) == 0] = True
        x = torch.relu(self.fc1(self.word_embd(ids)))
        return self.fc2(x.masked_fill(~keep[..., None], -6e4).max(-2).values)


class Aligner(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.bert = Words(c.words, c.word_width, c.word_hidden, c.text_features)
        self.video_temporal_encoder = Stack(c.width, c.heads, c.ffn_width, c.video_layers)
        self.joint_temporal_encoder = Stack(c.width, c.heads, c.ffn_width, c.joint_layers)
        self.video_pre_proj = nn.Linear(c.features, c.width, bias=False)
        self.text_pre_proj = nn.Linear(c.text_features, c.width, bias=False)
        for name in ("text_init", "video_init", "position_init", "video_post_enc", "joint_post_enc"):
            setattr(self, f"ln_{name}", nn.LayerNorm(c.width))
        self.temporal_pos_embed = nn.Parameter(torch.randn(c.positions, c.width))
        self.text_temporal_pos_embed = nn.Parameter(torch.randn(c.positions, c.width))
        self.mlp = nn.Linear(c.width, c.width)
        if c.text_layers:
            self.text_temporal_encoder = Stack(c.width, c.heads, c.ffn_width, c.text_layers)
            self.ln_text_post_enc = nn.LayerNorm(c.width)
        if c.alignability:
            self.binary_head = nn.Linear(c.width, 1)

    def place(self, table, length, start=0):
        if length > len(table):
            stretched = nn.functional.interpolate(table.T[None], size=length, mode="linear", align_corners=False)
            return self.ln_position_init(stretched[0].T)
        return self.ln_position_init(table[start : start + length])

    def forward(self, features, ids, padding, text_padding, start=0, ordered=False):
        """(video stages, text, joint video stages, joint text stages); padding is True where there is nothing."""
        length = features.shape[1]
        video = self.ln_video_init(self.video_pre_proj(features)) + self.place(self.temporal_pos_embed, length, start)
        plain = self.ln_text_init(self.text_pre_proj(self.bert(ids)))
        placed = plain + self.place(self.text_temporal_pos_embed, ids.shape[1]) if ordered else plain
        stages = self.video_temporal_encoder(video, padding, self.ln_video_post_enc)
        text = plain
        if self.c.text_layers:
            text = self.text_temporal_encoder(placed, text_padding, self.ln_text_post_enc)[-1]
        pair = (video, placed) if self.c.joint_from == "embedded" else (stages[-1], text)
        both = self.joint_temporal_encoder(
            torch.cat(pair, 1), torch.cat([padding, text_padding], 1), self.ln_joint_post_enc
        )
        both = torch.stack(both)
        return torch.stack(stages), text, both[:, :, :length], both[:, :, length:]


class Twin(nn.Module):
    """The online model, its moving average, and the online model's words once more."""

    def __init__(self, c):
        super().__init__()
        self.online, self.target = Aligner(c), Aligner(c)
        self.bert = self.online.bert
