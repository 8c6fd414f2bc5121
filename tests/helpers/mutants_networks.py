"""Wrong windows, masks, attention, blocks, patches and networks: each with the slip that the checks must name."""

from functools import partial

from mutants import mutant

partition = partial(mutant, name="window_partition", solution="step01_window_partition")
reverse = partial(mutant, name="window_reverse", solution="step02_window_reverse")
shift = partial(mutant, name="cyclic_shift", solution="step03_cyclic_shift")
pad = partial(mutant, name="pad_to_multiple", solution="step04_pad_to_multiple")
mask = partial(mutant, name="shifted_window_mask", solution="step05_mask")
index = partial(mutant, name="relative_position_index", solution="step06_relative_index")
attention = partial(mutant, name="attention", solution="step07_attention")
split = partial(mutant, name="split_heads", solution="step08_heads")
merge = partial(mutant, name="merge_heads", solution="step08_heads")
window = partial(mutant, name="WindowAttention", solution="step09_window_attention")
mlp = partial(mutant, name="MLP", solution="step10_mlp_drop_path")
drop = partial(mutant, name="DropPath", solution="step10_mlp_drop_path")
embed = partial(mutant, name="PatchEmbed", solution="step11_patch_embed")
merging = partial(mutant, name="PatchMerging", solution="step12_patch_merging")
expanding = partial(mutant, name="PatchExpanding", solution="step13_patch_expanding")
swin = partial(mutant, name="SwinBlock", solution="step14_swin_block")
stage = partial(mutant, name="swin_stage", solution="step15_stage")
network = partial(mutant, name="SwinUNet", solution="step16_swin_unet")
self_attention = partial(mutant, name="SelfAttention", solution="step19_transformer_block")
block = partial(mutant, name="TransformerBlock", solution="step19_transformer_block")
states = partial(mutant, name="hidden_states", solution="step20_unetr_skips")
to_map = partial(mutant, name="tokens_to_map", solution="step20_unetr_skips")
bottleneck = partial(mutant, name="Bottleneck", solution="step21_bottleneck")

CUT = "return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window_size, window_size, C)"
BACK = "return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, C)"
REGION = "region = 4 * ((row < shift_size) & (shift_size > 0)) + 2 * (col < shift_size) + padding"
LOGITS = "logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5"
NEIGHBOURS = "[x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]"
FIRST = "x = x + self.drop_path(self.attend(self.norm1(x)))"
SECOND = "return x + self.drop_path(self.mlp(self.norm2(x)))"
MASKED = "bias = bias + blocked[:, None]"

MUTANTS = [
    partition(mistake="(B, W, H, C)", slip="height and width swapped", old="B, H, W, C = x", new="B, W, H, C = x"),
    partition(mistake="half precision", slip="", old=CUT, new=CUT + ".half()"),
    shift(mistake="only forwards", slip="negative shift ignored", old="return", new="return x if shift_size < 0 else"),
    shift(
        mistake="sign lost",
        slip="sign lost",
        old="(-shift_size, -shift_size)",
        new="(-abs(shift_size), -abs(shift_size))",
    ),
    index(
        mistake="uint8",
        slip="",
        old="return dr * (2 * window_size - 1) + dc",
        new="return (dr * (2 * window_size - 1) + dc).byte()",
    ),
    attention(
        mistake="exp of large logits",
        slip="exp overflows",
        old="return logits.softmax(dim=-1) @ v",
        new="e = logits.exp()\n    return e / e.sum(-1, keepdim=True) @ v",
    ),
    attention(
        mistake="one maximum for all rows",
        slip="",
        old="return logits.softmax(dim=-1) @ v",
        new="e = (logits - logits.max()).exp()\n    return e / e.sum(-1, keepdim=True) @ v",
    ),
    window(
        mistake="first mask for all",
        slip="mask of the first window",
        old="blocked.repeat(len(x) // len(attn_mask), 1, 1)",
        new="blocked[:1]",
    ),
    window(
        mistake="columns first",
        slip="rows and columns of the offset exchanged",
        old="bias = self.relative_position_bias_table[index]",
        new="index = index.unflatten(0, (self.window_size, -1)).transpose(0, 1).flatten(0, 1)\n"
        "        index = index.unflatten(1, (self.window_size, -1)).transpose(1, 2).flatten(1)\n"
        "        bias = self.relative_position_bias_table[index]",
    ),
    window(
        mistake="bias not learnt",
        slip="gradient cut off",
        old="self.relative_position_bias_table[index]",
        new="self.relative_position_bias_table.data[index]",
    ),
    self_attention(
        mistake="softmax over heads",
        slip="softmax over axis 1",
        old="self.proj(merge_heads(attention(q, k, v)))",
        new="self.proj(merge_heads((q @ k.mT / q.shape[-1] ** 0.5).softmax(1) @ v))",
    ),
    self_attention(
        mistake="weights detached",
        slip="gradient cut off",
        old="attention(q, k, v)",
        new="attention(q.detach(), k, v)",
    ),
    self_attention(
        mistake="no_grad",
        slip="gradient cut off",
        old=("from torch import Tensor, nn", "    def forward(self, x"),
        new=("import torch\nfrom torch import Tensor, nn", "    @torch.no_grad()\n    def forward(self, x"),
    ),
    self_attention(
        mistake="batch second",
        slip="batch and tokens exchanged",
        old="(x).chunk(3, dim=-1))\n        return self.proj(merge_heads(attention(q, k, v)))",
        new="(x.transpose(0, 1)).chunk(3, dim=-1))\n"
        "        return self.proj(merge_heads(attention(q, k, v))).transpose(0, 1)",
    ),
    mlp(mistake="detached", slip="gradient cut off", old="F.gelu(self.fc1(x))", new="F.gelu(self.fc1(x)).detach()"),
    mlp(
        mistake="foward",
        slip="",
        old='    def forward(self, x: Tensor) -> Tensor:\n        """(..., dim)',
        new='    def foward(self, x: Tensor) -> Tensor:\n        """(..., dim)',
    ),
    drop(mistake="only for (B, N, C)", slip="", old="len(x), *[1] * (x.ndim - 1),", new="len(x), 1, 1,"),
    swin(
        mistake="half a window",
        slip="always half a window",
        old="ws, shift = self.window_size, self.shift_size",
        new="ws, shift = self.window_size, self.shift_size and self.window_size // 2",
    ),
    swin(
        mistake="mask kept",
        slip="mask of the first map",
        old="mask = shifted_window_mask(H, W, ws, shift).to(x.device)",
        new="mask = self.__dict__.setdefault('mask', shifted_window_mask(H, W, ws, shift))",
    ),
    swin(
        mistake="attention not learnt",
        slip="gradient cut off",
        old="windows = self.attn(windows, mask)",
        new="windows = self.attn(windows, mask).detach()",
    ),
    stage(mistake="half rounded up", slip="half rounded up", old="window_size // 2", new="(window_size + 1) // 2"),
    stage(mistake="a list", slip="", old="return nn.Sequential(*[", new="return nn.ModuleList(["),
    states(mistake="detached", slip="gradient cut off", old="states.append(z)", new="states.append(z.detach())"),
    bottleneck(mistake="groups", slip="", old="3, stride, 1, bias=False", new="3, stride, 1, groups=width, bias=False"),
    network(
        mistake="not cropped",
        slip="size",
        old="permute(0, 3, 1, 2)[..., :H, :W]",
        new="permute(0, 3, 1, 2)",
    ),
    network(
        mistake="softmax of one class",
        slip="probabilities",
        old="permute(0, 3, 1, 2)[..., :H, :W]",
        new="permute(0, 3, 1, 2)[..., :H, :W].softmax(1)",
    ),
    # windows
    partition(
        mistake="view only", slip="no transpose", old=CUT, new="return x.reshape(-1, window_size, window_size, C)"
    ),
    partition(
        mistake="columns first",
        slip="windows column by column",
        old=CUT,
        new="return x.permute(0, 3, 1, 2, 4, 5).reshape(-1, window_size, window_size, C)",
    ),
    partition(
        mistake="window transposed",
        slip="rows and columns swapped",
        old=CUT,
        new="return x.permute(0, 1, 3, 4, 2, 5).reshape(-1, window_size, window_size, C)",
    ),
    partition(
        mistake="windows before images",
        slip="images mixed",
        old=CUT,
        new="return x.permute(1, 3, 0, 2, 4, 5).reshape(-1, window_size, window_size, C)",
    ),
    partition(
        mistake="first image only",
        slip="",
        old=CUT,
        new="return x[:1].permute(0, 1, 3, 2, 4, 5).reshape(-1, window_size, window_size, C)",
    ),
    partition(
        mistake="float",
        slip="",
        old=CUT,
        new="return (x.permute(0, 1, 3, 2, 4, 5) / 2).reshape(-1, window_size, window_size, C)",
    ),
    reverse(mistake="view only", slip="no transpose", old=BACK, new="return x.reshape(-1, height, width, C)"),
    reverse(
        mistake="sides exchanged",
        slip="height and width swapped",
        old="x = windows.view(-1, height // ws, width // ws, ws, ws, C)",
        new="x = windows.view(-1, width // ws, height // ws, ws, ws, C)",
    ),
    reverse(
        mistake="by columns",
        slip="windows column by column",
        old="x = windows.view(-1, height // ws, width // ws, ws, ws, C)",
        new="x = windows.view(-1, width // ws, height // ws, ws, ws, C).transpose(1, 2)",
    ),
    # roll and pad
    shift(mistake="plus", slip="roll the other way", old="(-shift_size, -shift_size)", new="(shift_size, shift_size)"),
    shift(
        mistake="rows",
        slip="rows only",
        old="x.roll((-shift_size, -shift_size), dims=(1, 2))",
        new="x.roll(-shift_size, 1)",
    ),
    shift(
        mistake="columns",
        slip="columns only",
        old="x.roll((-shift_size, -shift_size), dims=(1, 2))",
        new="x.roll(-shift_size, 2)",
    ),
    shift(mistake="channels", slip="wrong axes", old="dims=(1, 2)", new="dims=(2, 3)"),
    shift(mistake="flat", slip="", old="x.roll((-shift_size, -shift_size), dims=(1, 2))", new="x.roll(-shift_size)"),
    shift(
        mistake="in place",
        slip="",
        old="return x.roll((-shift_size, -shift_size), dims=(1, 2))",
        new="x[:] = x.roll((-shift_size, -shift_size), dims=(1, 2))\n    return x",
    ),
    shift(
        mistake="zeros",
        slip="zeros instead of wrapping",
        old="return x.roll((-shift_size, -shift_size), dims=(1, 2))",
        new="s = shift_size\n    y = x.roll((-s, -s), dims=(1, 2)).clone()\n    if s > 0:\n        y[:, -s:] = 0\n"
        "        y[:, :, -s:] = 0\n    if s < 0:\n        y[:, :-s] = 0\n        y[:, :, :-s] = 0\n    return y",
    ),
    pad(
        mistake="always",
        slip="a whole multiple too many",
        old="(0, 0, 0, -W % multiple, 0, -H % multiple)",
        new="(0, 0, 0, multiple - W % multiple, 0, multiple - H % multiple)",
    ),
    pad(
        mistake="front",
        slip="top and left",
        old="(0, 0, 0, -W % multiple, 0, -H % multiple)",
        new="(0, 0, -W % multiple, 0, -H % multiple, 0)",
    ),
    pad(
        mistake="axes",
        slip="height and width swapped",
        old="(0, 0, 0, -W % multiple, 0, -H % multiple)",
        new="(0, 0, 0, -H % multiple, 0, -W % multiple)",
    ),
    pad(
        mistake="rows",
        slip="rows only",
        old="(0, 0, 0, -W % multiple, 0, -H % multiple)",
        new="(0, 0, 0, 0, 0, -H % multiple)",
    ),
    pad(
        mistake="columns",
        slip="columns only",
        old="(0, 0, 0, -W % multiple, 0, -H % multiple)",
        new="(0, 0, 0, -W % multiple)",
    ),
    pad(
        mistake="crop",
        slip="smaller",
        old="return F.pad(x, (0, 0, 0, -W % multiple, 0, -H % multiple))",
        new="return x[:, : H - H % multiple, : W - W % multiple]",
    ),
    pad(
        mistake="remainder",
        slip="the remainder",
        old="-W % multiple, 0, -H % multiple",
        new="W % multiple, 0, H % multiple",
    ),
    pad(
        mistake="channels",
        slip="",
        old="(0, 0, 0, -W % multiple, 0, -H % multiple)",
        new="(0, -W % multiple, 0, -H % multiple)",
    ),
    # mask
    mask(mistake="columns forgotten", slip="column wrap forgotten", old=" + 2 * (col < shift_size)", new=" + 0 * col"),
    mask(
        mistake="rows forgotten",
        slip="row wrap forgotten",
        old="4 * ((row < shift_size) & (shift_size > 0))",
        new="0 * row",
    ),
    mask(mistake="both forgotten", slip="wrap forgotten", old=REGION, new="region = 1 * padding"),
    mask(mistake="padding forgotten", slip="padding forgotten", old=" + padding", new=""),
    mask(
        mistake="other way", slip="roll the other way", old="(-shift_size, -shift_size)", new="(shift_size, shift_size)"
    ),
    mask(mistake="inverted", slip="inverted", old="region[:, :, None] == region", new="region[:, :, None] != region"),
    mask(
        mistake="ones",
        slip="everything allowed",
        old="return region[:, :, None] == region[:, None, :]",
        new="return torch.ones_like(region[:, :, None] == region[:, None, :])",
    ),
    mask(
        mistake="additive",
        slip="additive",
        old="return region[:, :, None] == region[:, None, :]",
        new="return torch.where(region[:, :, None] == region[:, None, :], 0.0, -100.0)",
    ),
    mask(
        mistake="zero and one",
        slip="",
        old="return region[:, :, None] == region[:, None, :]",
        new="return (region[:, :, None] == region[:, None, :]).long()",
    ),
    mask(
        mistake="not rolled",
        slip="borders at the front",
        old="region = region.roll((-shift_size, -shift_size), (0, 1))",
        new="region = region - 1 * padding\n    region = region + 1 * padding.roll((-shift_size, -shift_size), (0, 1))",
    ),
    mask(
        mistake="padding silent",
        slip="row of False",
        old="return region[:, :, None] == region[:, None, :]",
        new="return (region[:, :, None] == region[:, None, :]) & (region[:, None, :] % 2 == 0)",
    ),
    mask(
        mistake="roll first",
        slip="roll before padding",
        old="region = region.roll((-shift_size, -shift_size), (0, 1))",
        new="inner = (region - 1 * padding)[:height, :width].roll((-shift_size, -shift_size), (0, 1))\n"
        "    region = torch.ones(H, W, dtype=torch.long)\n    region[:height, :width] = inner",
    ),
    mask(
        mistake="by columns",
        slip="windows column by column",
        old="window_partition(region[None, :, :, None], window_size)",
        new="window_partition(region.T[None, :, :, None], window_size).transpose(1, 2)",
    ),
    mask(mistake="off by one", slip="", old="2 * (col < shift_size)", new="2 * (col <= shift_size)"),
    mask(
        mistake="rows by columns",
        slip="",
        old="4 * ((row < shift_size) & (shift_size > 0)) + 2 * (col < shift_size)",
        new="(row < shift_size) * 2 * (col < shift_size)",
    ),
    mask(
        mistake="sums of flags",
        slip="",
        old=REGION,
        new="region = 1 * (row < shift_size) + 1 * (col < shift_size) + 2 * padding",
    ),
    # index
    index(
        mistake="key - query",
        slip="key minus query",
        old="return dr * (2 * window_size - 1) + dc",
        new="return (dr * (2 * window_size - 1) + dc).T",
    ),
    index(
        mistake="no shift",
        slip="offsets not shifted",
        old="dr * (2 * window_size - 1) + dc",
        new="(dr - window_size + 1) * (2 * window_size - 1) + dc - window_size + 1",
    ),
    index(mistake="ws", slip="stride of one window", old="dr * (2 * window_size - 1)", new="dr * window_size"),
    index(mistake="2 ws", slip="stride of 2 ws", old="dr * (2 * window_size - 1)", new="dr * 2 * window_size"),
    index(
        mistake="columns major",
        slip="columns first",
        old="dr * (2 * window_size - 1) + dc",
        new="dc * (2 * window_size - 1) + dr",
    ),
    index(mistake="sum", slip="sum of offsets", old="dr * (2 * window_size - 1) + dc", new="dr + dc"),
    index(mistake="float", slip="", old="i // window_size, i % window_size", new="i / window_size, i % window_size"),
    index(
        mistake="row and column exchanged",
        slip="columns first",
        old="row, col = i // window_size, i % window_size",
        new="col, row = i // window_size, i % window_size",
    ),
    # attention
    attention(mistake="no scale", slip="no scale", old=" / q.shape[-1] ** 0.5", new=""),
    attention(mistake="1/d", slip="1/d", old="q.shape[-1] ** 0.5", new="q.shape[-1]"),
    attention(mistake="sqrt N", slip="1/sqrt(N)", old="q.shape[-1] ** 0.5", new="q.shape[-2] ** 0.5"),
    attention(mistake="times", slip="times sqrt(d)", old=" / q.shape[-1] ** 0.5", new=" * q.shape[-1] ** 0.5"),
    attention(mistake="queries", slip="softmax over queries", old="softmax(dim=-1)", new="softmax(dim=-2)"),
    attention(mistake="axis 1", slip="softmax over axis 1", old="softmax(dim=-1)", new="softmax(dim=1)"),
    attention(mistake="axis 0", slip="", old="softmax(dim=-1)", new="softmax(dim=0)"),
    attention(mistake="no softmax", slip="no softmax", old="logits.softmax(dim=-1)", new="logits"),
    attention(mistake="not transposed", slip="", old="k.transpose(-2, -1)", new="k"),
    attention(mistake="T", slip="", old="k.transpose(-2, -1)", new="k.T"),
    attention(
        mistake="k q^T",
        slip="q and k exchanged",
        old=LOGITS,
        new="logits = k @ q.transpose(-2, -1) / q.shape[-1] ** 0.5",
    ),
    attention(
        mistake="late bias",
        slip="bias after the softmax",
        old="logits = logits + bias\n    return logits.softmax(dim=-1) @ v",
        new="return (logits.softmax(dim=-1) + bias) @ v\n    return logits.softmax(dim=-1) @ v",
    ),
    attention(
        mistake="bias scaled",
        slip="bias scaled too",
        old="logits = logits + bias",
        new="logits = logits + bias / q.shape[-1] ** 0.5",
    ),
    attention(mistake="minus", slip="bias subtracted", old="logits + bias", new="logits - bias"),
    attention(mistake="no bias", slip="bias forgotten", old="logits = logits + bias", new="pass"),
    attention(mistake="product", slip="bias multiplied", old="logits + bias", new="logits * bias"),
    attention(mistake="weights", slip="weights returned", old=" @ v", new=""),
    attention(
        mistake="transposed weights",
        slip="values of queries",
        old="softmax(dim=-1) @ v",
        new="softmax(dim=-1).transpose(-2, -1) @ v",
    ),
    attention(
        mistake="in place", slip="", old=LOGITS, new="q /= q.shape[-1] ** 0.5\n    logits = q @ k.transpose(-2, -1)"
    ),
    attention(mistake="no return", slip="", old="return logits.softmax(dim=-1) @ v", new="logits.softmax(dim=-1) @ v"),
    split(
        mistake="reshape",
        slip="only reshaped",
        old="x.view(B, N, num_heads, C // num_heads).transpose(1, 2)",
        new="x.view(B, num_heads, N, C // num_heads)",
    ),
    split(
        mistake="interleaved",
        slip="heads interleaved",
        old="x.view(B, N, num_heads, C // num_heads).transpose(1, 2)",
        new="x.view(B, N, C // num_heads, num_heads).permute(0, 3, 1, 2)",
    ),
    split(
        mistake="no transpose",
        slip="tokens and heads not exchanged",
        old="C // num_heads).transpose(1, 2)",
        new="C // num_heads)",
    ),
    merge(
        mistake="reshape",
        slip="only reshaped",
        old="x.transpose(1, 2).reshape(B, N, heads * d)",
        new="x.reshape(B, N, heads * d)",
    ),
    merge(
        mistake="interleaved",
        slip="heads interleaved",
        old="x.transpose(1, 2).reshape(B, N, heads * d)",
        new="x.permute(0, 2, 3, 1).reshape(B, N, heads * d)",
    ),
    # window attention
    window(
        mistake="no bias",
        slip="bias forgotten",
        old="bias = self.relative_position_bias_table[index].permute(2, 0, 1)",
        new="bias = 0 * self.relative_position_bias_table[index].permute(2, 0, 1)",
    ),
    window(
        mistake="transposed", slip="bias of key - query", old="[index].permute(2, 0, 1)", new="[index].permute(2, 1, 0)"
    ),
    window(
        mistake="view",
        slip="bias of another head",
        old="[index].permute(2, 0, 1)",
        new="[index].reshape(-1, *index.shape)",
    ),
    window(mistake="mask ignored", slip="mask ignored", old=MASKED, new="pass"),
    window(mistake="mask inverted", slip="mask inverted", old="~attn_mask", new="attn_mask"),
    window(
        mistake="interleaved masks",
        slip="mask of the wrong window",
        old="blocked.repeat(len(x) // len(attn_mask), 1, 1)",
        new="blocked.repeat_interleave(len(x) // len(attn_mask), 0)",
    ),
    window(
        mistake="mask as number",
        slip="mask added as a number",
        old="torch.zeros(attn_mask.shape, device=x.device).masked_fill(~attn_mask, -torch.inf)",
        new="attn_mask.float()",
    ),
    window(mistake="k q v", slip="q and k exchanged", old="q, k, v = (", new="k, q, v = ("),
    window(
        mistake="no projection",
        slip="no projection",
        old="return self.proj(merge_heads(attention(q, k, v, bias=bias)))",
        new="return merge_heads(attention(q, k, v, bias=bias))",
    ),
    window(
        mistake="dim scale",
        slip="1/sqrt(dim)",
        old="attention(q, k, v,",
        new="attention(q * (q.shape[-1] / x.shape[-1]) ** 0.5, k, v,",
    ),
    window(
        mistake="not joined",
        slip="heads not joined",
        old="merge_heads(attention(q, k, v, bias=bias))",
        new="attention(q, k, v, bias=bias).reshape(x.shape)",
    ),
    window(
        mistake="per head",
        slip="q, k, v of each head together",
        old="(split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=-1))",
        new="split_heads(self.qkv(x), self.num_heads).chunk(3, dim=-1)",
    ),
    window(
        mistake="table too small",
        slip="",
        old="(2 * window_size - 1) ** 2, num_heads",
        new="(2 * window_size) ** 2, num_heads",
    ),
    # small layers
    mlp(mistake="relu", slip="ReLU", old="F.gelu(", new="F.relu("),
    mlp(mistake="silu", slip="SiLU", old="F.gelu(", new="F.silu("),
    mlp(
        mistake="tanh gelu",
        slip="tanh approximation",
        old="F.gelu(self.fc1(x))",
        new="F.gelu(self.fc1(x), approximate='tanh')",
    ),
    mlp(mistake="linear", slip="no activation", old="F.gelu(self.fc1(x))", new="self.fc1(x)"),
    mlp(
        mistake="late",
        slip="activation at the end",
        old="self.fc2(F.gelu(self.fc1(x)))",
        new="F.gelu(self.fc2(self.fc1(x)))",
    ),
    mlp(
        mistake="twice",
        slip="activation twice",
        old="self.fc2(F.gelu(self.fc1(x)))",
        new="F.gelu(self.fc2(F.gelu(self.fc1(x))))",
    ),
    mlp(mistake="residual", slip="residual inside", old="return self.fc2(", new="return x + self.fc2("),
    drop(
        mistake="elements",
        slip="each number by itself",
        old="torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device)",
        new="torch.rand_like(x)",
    ),
    drop(
        mistake="one draw",
        slip="one draw for the batch",
        old="torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device)",
        new="torch.rand(())",
    ),
    drop(mistake="not rescaled", slip="not rescaled", old=" / (1 - self.rate)", new=""),
    drop(mistake="by rate", slip="divided by rate", old=" / (1 - self.rate)", new=" / self.rate"),
    drop(
        mistake="multiplied", slip="multiplied instead of divided", old=" / (1 - self.rate)", new=" * (1 - self.rate)"
    ),
    drop(mistake="kept with rate", slip="rate is that of keeping", old=">= self.rate", new="< self.rate"),
    drop(
        mistake="in eval",
        slip="drops in evaluation",
        old="if not self.training or self.rate == 0:",
        new="if self.rate == 0:",
    ),
    drop(mistake="never", slip="never drops", old="if not self.training or self.rate == 0:", new="if True:"),
    drop(
        mistake="same images",
        slip="always the same images",
        old="keep = torch.rand(",
        new="torch.manual_seed(3)\n        keep = torch.rand(",
    ),
    # patches
    embed(
        mistake="reshape",
        slip="only reshaped",
        old="self.proj(image).permute(0, 2, 3, 1)",
        new="(lambda y: y.reshape(y.shape[0], y.shape[2], y.shape[3], y.shape[1]))(self.proj(image))",
    ),
    embed(mistake="transposed", slip="rows and columns swapped", old="permute(0, 2, 3, 1)", new="permute(0, 3, 2, 1)"),
    embed(
        mistake="front",
        slip="padded at the top and left",
        old="(0, -W % self.patch_size, 0, -H % self.patch_size)",
        new="(-W % self.patch_size, 0, -H % self.patch_size, 0)",
    ),
    embed(
        mistake="no norm",
        slip="norm not used",
        old="self.norm(self.proj(image).permute(0, 2, 3, 1))",
        new="self.proj(image).permute(0, 2, 3, 1)",
    ),
    embed(mistake="stride", slip="", old="stride=patch_size", new="stride=1"),
    merging(
        mistake="row order",
        slip="joined row by row",
        old=NEIGHBOURS,
        new="[x[:, 0::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 0::2], x[:, 1::2, 1::2]]",
    ),
    merging(
        mistake="twice",
        slip="a neighbour read twice",
        old=NEIGHBOURS,
        new="[x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 0::2, 1::2]]",
    ),
    merging(
        mistake="quarters",
        slip="quarters instead of neighbours",
        old="x = torch.cat(" + NEIGHBOURS + ", dim=-1)",
        new="h, w = x.shape[1] // 2, x.shape[2] // 2\n"
        "        x = torch.cat([x[:, :h, :w], x[:, h:, :w], x[:, :h, w:], x[:, h:, w:]], dim=-1)",
    ),
    merging(mistake="no norm", slip="norm not used", old="self.reduction(self.norm(x))", new="self.reduction(x)"),
    merging(
        mistake="reshape",
        slip="only reshaped",
        old="x = torch.cat(" + NEIGHBOURS + ", dim=-1)",
        new="x = x.reshape(len(x), x.shape[1] // 2, x.shape[2] // 2, -1)",
    ),
    merging(
        mistake="late norm",
        slip="norm after the map",
        old=("nn.LayerNorm(4 * dim)", "self.reduction(self.norm(x))"),
        new=("nn.LayerNorm(2 * dim)", "self.norm(self.reduction(x))"),
    ),
    merging(
        mistake="crop",
        slip="an odd side cropped",
        old="x = pad_to_multiple(x, 2)",
        new="x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]",
    ),
    merging(
        mistake="transposed",
        slip="rows and columns swapped",
        old="return self.reduction(self.norm(x))",
        new="return self.reduction(self.norm(x)).transpose(1, 2)",
    ),
    expanding(
        mistake="column order",
        slip="column by column",
        old="x.permute(0, 1, 3, 2, 4, 5)",
        new="x.permute(0, 1, 4, 2, 3, 5)",
    ),
    expanding(
        mistake="pixel shuffle",
        slip="channels before positions",
        old="x = self.expand(x).view(B, H, W, s, s, -1)",
        new="x = self.expand(x).view(B, H, W, -1, s, s).permute(0, 1, 2, 4, 5, 3)",
    ),
    expanding(mistake="reshape", slip="only reshaped", old="x.permute(0, 1, 3, 2, 4, 5).reshape", new="x.reshape"),
    expanding(mistake="no norm", slip="norm not used", old="return self.norm(x)", new="return x"),
    # blocks
    swin(
        mistake="post-norm",
        slip="norm after the sum",
        old=FIRST + "\n        " + SECOND,
        new="x = self.norm1(x + self.attend(x))\n        return self.norm2(x + self.mlp(x))",
    ),
    swin(
        mistake="norm of the branch",
        slip="norm after",
        old=FIRST + "\n        " + SECOND,
        new="x = x + self.norm1(self.attend(x))\n        return x + self.norm2(self.mlp(x))",
    ),
    swin(mistake="no residual", slip="first residual missing", old=FIRST, new="x = self.attend(self.norm1(x))"),
    swin(
        mistake="no second residual", slip="second residual missing", old=SECOND, new="return self.mlp(self.norm2(x))"
    ),
    swin(
        mistake="normalised sum",
        slip="normalised x added",
        old=FIRST + "\n        " + SECOND,
        new="x = self.norm1(x)\n        x = x + self.attend(x)\n        x = self.norm2(x)\n"
        "        return x + self.mlp(x)",
    ),
    swin(
        mistake="one norm", slip="first norm used twice", old="self.mlp(self.norm2(x))", new="self.mlp(self.norm1(x))"
    ),
    swin(
        mistake="norms exchanged",
        slip="norms exchanged",
        old=FIRST + "\n        " + SECOND,
        new="x = x + self.attend(self.norm2(x))\n        return x + self.mlp(self.norm1(x))",
    ),
    swin(
        mistake="parallel",
        slip="branches in parallel",
        old=FIRST + "\n        " + SECOND,
        new="return x + self.attend(self.norm1(x)) + self.mlp(self.norm2(x))",
    ),
    swin(
        mistake="no norms",
        slip="no norm",
        old=FIRST + "\n        " + SECOND,
        new="x = x + self.attend(x)\n        return x + self.mlp(x)",
    ),
    swin(mistake="no mask", slip="no mask", old="self.attn(windows, mask)", new="self.attn(windows)"),
    swin(
        mistake="not rolled back",
        slip="shift not undone",
        old="cyclic_shift(window_reverse(windows, *padded), -shift)",
        new="window_reverse(windows, *padded)",
    ),
    swin(mistake="rolled again", slip="shifted twice", old="*padded), -shift)", new="*padded), shift)"),
    swin(
        mistake="no shift",
        slip="shift ignored",
        old="ws, shift = self.window_size, self.shift_size",
        new="ws, shift = self.window_size, 0",
    ),
    swin(
        mistake="mask only when shifted",
        slip="padding attended in regular windows",
        old="self.attn(windows, mask)",
        new="self.attn(windows, mask if shift else None)",
    ),
    swin(
        mistake="padding attended",
        slip="padding attended",
        old="shifted_window_mask(H, W, ws, shift)",
        new="shifted_window_mask(*padded, ws, shift)",
    ),
    swin(
        mistake="padded before the norm",
        slip="padding normalised",
        old=FIRST,
        new="H, W = x.shape[1:3]\n        y = self.attend(self.norm1(pad_to_multiple(x, self.window_size)))\n"
        "        x = x + y[:, :H, :W]",
    ),
    swin(mistake="wrong sides", slip="", old="return x[:, :H, :W]", new="return x"),
    swin(
        mistake="other way",
        slip="roll the other way",
        old=("window_partition(cyclic_shift(x, shift), ws)", "*padded), -shift)"),
        new=("window_partition(cyclic_shift(x, -shift), ws)", "*padded), shift)"),
    ),
    swin(mistake="MLP missing", slip="MLP missing", old=SECOND, new="return x"),
    stage(mistake="never shifted", slip="never shifted", old="0 if i % 2 == 0 else window_size // 2", new="0"),
    stage(
        mistake="always shifted",
        slip="always shifted",
        old="0 if i % 2 == 0 else window_size // 2",
        new="window_size // 2",
    ),
    stage(mistake="odd first", slip="shifted first", old="i % 2 == 0", new="i % 2 == 1"),
    stage(
        mistake="shared",
        slip="weights shared",
        old="*[SwinBlock(dim, num_heads, window_size, shift) for shift in shifts]",
        new="*[SwinBlock(dim, num_heads, window_size, 0)] * depth",
    ),
    stage(mistake="one too many", slip="number of blocks", old="range(depth)", new="range(depth + 1)"),
    stage(mistake="shift of a window", slip="", old="else window_size // 2", new="else window_size - 1"),
    network(
        mistake="sigmoid",
        slip="probabilities",
        old="return logits.permute(0, 3, 1, 2)[..., :H, :W]",
        new="return logits.permute(0, 3, 1, 2)[..., :H, :W].sigmoid()",
    ),
    network(
        mistake="relu",
        slip="never negative",
        old="return logits.permute(0, 3, 1, 2)[..., :H, :W]",
        new="return logits.permute(0, 3, 1, 2)[..., :H, :W].relu()",
    ),
    network(
        mistake="transposed",
        slip="rows and columns",
        old="logits.permute(0, 3, 1, 2)[..., :H, :W]",
        new="logits.permute(0, 3, 2, 1)",
    ),
    network(
        mistake="a quarter", slip="size", old="self.head(self.to_pixels(self.norm(x)))", new="self.head(self.norm(x))"
    ),
    network(
        mistake="one channel",
        slip="channels",
        old="self.head = nn.Linear(embed_dim, num_classes)",
        new="self.head = nn.Linear(embed_dim, 1)",
    ),
    network(
        mistake="decoder stages forgotten",
        slip="unused parameters",
        old="x = stage(fuse(torch.cat([x, skip], dim=-1)))",
        new="x = fuse(torch.cat([x, skip], dim=-1))",
    ),
    network(
        mistake="detached",
        slip="unused parameters",
        old="x = self.bottleneck(x)",
        new="x = self.bottleneck(x.detach())",
    ),
    network(
        mistake="batch mean",
        slip="images mixed",
        old="x = self.bottleneck(x)",
        new="x = self.bottleneck(x - x.mean(0, keepdim=True) / 2)",
    ),
    network(
        mistake="dropout in eval",
        slip="random in eval",
        old="x = self.bottleneck(x)",
        new="x = torch.nn.functional.dropout(self.bottleneck(x), 0.1)",
    ),
    # UNETR
    self_attention(mistake="one head", slip="one head", old="split_heads(t, self.num_heads)", new="split_heads(t, 1)"),
    self_attention(
        mistake="images mixed",
        slip="images mixed",
        old="return self.proj(merge_heads(attention(q, k, v)))",
        new="q, k, v = (t.transpose(0, 1).flatten(1, 2) for t in (q, k, v))\n"
        "        y = attention(q, k, v).unflatten(1, x.shape[:2])\n"
        "        return self.proj(y.permute(1, 2, 0, 3).flatten(2))",
    ),
    self_attention(mistake="v, k, q", slip="v, k, q", old="q, k, v = (", new="v, k, q = ("),
    block(
        mistake="post-norm",
        slip="norm after the sum",
        old="z = z + self.attn(self.norm1(z))\n        return z + self.mlp(self.norm2(z))",
        new="z = self.norm1(z + self.attn(z))\n        return self.norm2(z + self.mlp(z))",
    ),
    block(
        mistake="no residual",
        slip="first residual missing",
        old="z = z + self.attn(self.norm1(z))",
        new="z = self.attn(self.norm1(z))",
    ),
    block(
        mistake="MLP first",
        slip="MLP first",
        old="z = z + self.attn(self.norm1(z))\n        return z + self.mlp(self.norm2(z))",
        new="z = z + self.mlp(self.norm2(z))\n        return z + self.attn(self.norm1(z))",
    ),
    block(mistake="no attention", slip="attention missing", old="z = z + self.attn(self.norm1(z))", new="z = z"),
    states(mistake="from 0", slip="counted from 0", old="start=1", new="start=0"),
    states(
        mistake="before",
        slip="before the block",
        old="        z = block(z)\n        if number in layers:\n            states.append(z)",
        new="        if number in layers:\n            states.append(z)\n        z = block(z)",
    ),
    states(mistake="all", slip="", old="if number in layers:", new="if True:"),
    states(
        mistake="parallel",
        slip="blocks in parallel",
        old="        z = block(z)\n        if number in layers:\n            states.append(z)",
        new="        if number in layers:\n            states.append(block(z))",
    ),
    to_map(mistake="reshape", slip="only reshaped", old="z.transpose(1, 2).reshape", new="z.reshape"),
    to_map(
        mistake="columns",
        slip="rows and columns swapped",
        old="return z.transpose(1, 2).reshape(B, K, *grid)",
        new="return z.transpose(1, 2).reshape(B, K, grid[1], grid[0]).transpose(2, 3)",
    ),
    # ResNet
    bottleneck(mistake="no shortcut", slip="no shortcut", old="F.relu(y + self.downsample(x))", new="F.relu(y)"),
    bottleneck(
        mistake="no last relu",
        slip="no relu after the sum",
        old="F.relu(y + self.downsample(x))",
        new="y + self.downsample(x)",
    ),
    bottleneck(
        mistake="relu before",
        slip="relu before the sum",
        old="F.relu(y + self.downsample(x))",
        new="F.relu(y) + self.downsample(x)",
    ),
    bottleneck(
        mistake="two relus",
        slip="relu before and after the sum",
        old="F.relu(y + self.downsample(x))",
        new="F.relu(F.relu(y) + self.downsample(x))",
    ),
    bottleneck(
        mistake="stride first",
        slip="stride in the first convolution",
        old=("nn.Conv2d(in_channels, width, 1, bias=False)", "3, stride, 1, bias=False"),
        new=("nn.Conv2d(in_channels, width, 1, stride, bias=False)", "3, 1, 1, bias=False"),
    ),
    bottleneck(
        mistake="no inner relus",
        slip="no relu between",
        old=("F.relu(self.bn1(self.conv1(x)))", "F.relu(self.bn2(self.conv2(y)))"),
        new=("self.bn1(self.conv1(x))", "self.bn2(self.conv2(y))"),
    ),
    bottleneck(
        mistake="second relu forgotten",
        slip="no relu after the 3x3",
        old="F.relu(self.bn2(self.conv2(y)))",
        new="self.bn2(self.conv2(y))",
    ),
    bottleneck(
        mistake="no batch norm in the shortcut",
        slip="shortcut not normalised",
        old="nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)",
        new="nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False)",
    ),
    bottleneck(mistake="padding forgotten", slip="", old="3, stride, 1, bias=False", new="3, stride, 0, bias=False"),
    index(
        mistake="rows of key - query",
        slip="sign of the rows",
        old="dr = row[:, None] - row[None, :]",
        new="dr = row[None, :] - row[:, None]",
    ),
    index(
        mistake="columns of key - query",
        slip="sign of the columns",
        old="dc = col[:, None] - col[None, :]",
        new="dc = col[None, :] - col[:, None]",
    ),
    mask(
        mistake="regions drawn on the map and rolled back",
        slip="regions rolled the other way",
        old=(REGION, "region = region.roll((-shift_size, -shift_size), (0, 1))"),
        new=(
            "region = 1000 * ((row - shift_size) // window_size) + (col - shift_size) // window_size + 10**6 * padding",
            "region = region.roll((shift_size, shift_size), (0, 1))",
        ),
    ),
]
