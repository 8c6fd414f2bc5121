"""Draw docs/img/unpickler.png: one pickle on Python's machine and on ours, instruction by instruction."""

import pickle
import pickletools

from PIL import Image, ImageDraw

from lungseg.draw import font


class Asks:
    def __reduce__(self):
        return eval, ("open('it_ran', 'w')",)


SHOWN = ["SHORT_BINUNICODE", "STACK_GLOBAL", "TUPLE1", "REDUCE"]  # the others only keep the books
PYTHON = [
    ["'builtins'"],
    ["'builtins'", "'eval'"],
    ["eval, imported"],
    ["eval, imported", "'open(...)'"],
    ["eval, imported", "('open(...)',)"],
    ["it ran"],
]
OURS = [["'builtins'"], ["'builtins'", "'eval'"], ["refused: builtins.eval"], [], [], []]
LISTED = [
    ["'builtins'"],
    ["'builtins'", "'slice'"],
    ["Name slice"],
    ["Name slice", "1"],
    ["Name slice", "(1,)"],
    ["Record: slice, (1,)"],
]
ROW, BOX, LEFT = 80, 336, 380
GREY, BLUE, RED, GREEN = (228, 230, 234), (190, 212, 240), (240, 170, 160), (178, 222, 180)


def colour(text: str) -> tuple[int, int, int]:
    if "imported" in text or text == "it ran":
        return RED
    if text.startswith(("refused", "Name", "Record")):
        return GREEN
    return BLUE


steps = [op.name for op, _, _ in pickletools.genops(pickle.dumps(Asks(), 4)) if op.name in SHOWN]
assert len(steps) == len(PYTHON) == len(OURS) == len(LISTED)

image = Image.new("RGB", (LEFT + 3 * 2 * BOX + 120, 192 + ROW * len(steps)), "white")
draw = ImageDraw.Draw(image)
heads = ["Python's machine", "our machine", "our machine, slice(1) instead of eval(...)"]
draw.text((24, 60), "instruction", (0, 0, 0), font(34), anchor="lm")
for panel, (head, stacks) in enumerate(zip(heads, [PYTHON, OURS, LISTED], strict=True)):
    x = LEFT + panel * (2 * BOX + 40)
    draw.text((x, 60), head, (0, 0, 0), font(34), anchor="lm")
    draw.text((x, 108), "stack after it (top at the right)", (110, 110, 110), font(26), anchor="lm")
    for row, stack in enumerate(stacks):
        for place, value in enumerate(stack):
            width = BOX if len(stack) > 1 or len(value) < 20 else BOX + 120
            box = (x + place * BOX, 152 + row * ROW, x + place * BOX + width - 16, 152 + row * ROW + ROW - 16)
            draw.rounded_rectangle(box, 12, fill=colour(value))
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            draw.text(middle, value, (0, 0, 0), font(30), anchor="mm")
for row, name in enumerate(steps):
    y = 152 + row * ROW + ROW / 2 - 8
    draw.text((24, y), name, (0, 0, 0), font(30), anchor="lm")
    draw.line((24, y + ROW / 2, image.width - 24, y + ROW / 2), GREY, 2)
image.quantize(64).save("docs/img/unpickler.png", optimize=True)
