"""What generated scripts do to a model: freeze, unfreeze, replace its head, set modes."""

from __future__ import annotations

from networks import CLASSES, Network, Pick

Lines = list[str]

HELPERS = {
    "freeze": """
def freeze(module):
    for param in module.parameters():
        param.requires_grad = False
""",
    "set_trainable": """
def set_trainable(module, flag=True):
    for param in module.parameters():
        param.requires_grad = flag
""",
    "freeze_names": """
def freeze_names(module, words):
    for name, param in module.named_parameters():
        if any(word in name for word in words):
            param.requires_grad = False
""",
    "train_names": """
def train_names(module, words):
    for name, param in module.named_parameters():
        param.requires_grad = any(word in name for word in words)
""",
    "trainable": """
def trainable(module):
    return [param for param in module.parameters() if param.requires_grad]
""",
    "hold_batchnorm": """
def hold_batchnorm(module):
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.eval()
""",
    "hold_frozen_batchnorm": """
def hold_frozen_batchnorm(module):
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not layer.weight.requires_grad:
            layer.eval()
""",
    "batchnorm_off": """
def batchnorm_off(layer):
    if "BatchNorm" in layer.__class__.__name__:
        layer.eval()
""",
    "count": """
def count(params):
    return sum(param.numel() for param in params)
""",
    "new_head": f"""
def new_head(model, name, classes={CLASSES}):
    old = getattr(model, name)
    setattr(model, name, nn.Linear(old.in_features, classes))
    return model
""",
}


def indent(lines: Lines, by: int = 1) -> Lines:
    return ["    " * by + line if line else "" for line in lines]


class Statements:
    """Statements about `model`, an expression whose value is a `network`."""

    def __init__(self, pick: Pick, network: Network, helpers: set[str], slips: bool) -> None:
        self.pick = pick
        self.network = network
        self.helpers = helpers  # those that were used
        self.slips = slips  # slips of the pen may occur
        self.plain_head = not network.head.startswith("[")  # it is an attribute, and a Linear

    def helper(self, name: str) -> str:
        self.helpers.add(name)
        return name

    def chance(self, of: int) -> bool:
        """One time in so many; the simplest example has it not."""
        return self.pick(*[False] * (of - 1), True)

    # -- flags ----------------------------------------------------------------------------

    def flags(self, model: str, flag: bool) -> Lines:
        """Freeze (or unfreeze) something, in one of many ways."""
        ways = [self._whole, self._part, self._part, self._several, self._named, self._named]
        if not flag:
            ways += [self._whole, self._whole, self._batchnorm, self._but_head]
        return self.pick(*ways)(model, flag)

    def freeze_all(self, model: str) -> Lines:
        return self._whole(model, False)

    def unfreeze_part(self, model: str) -> Lines:
        return self._part(model, True)

    def of(self, target: str, flag: bool) -> Lines:
        """The flags of everything in `target`, a module."""
        p = self.pick("p", "param")
        ways = [
            [f"for {p} in {target}.parameters():", f"    {p}.requires_grad = {flag}"],
            [f"for {p} in {target}.parameters():", f"    {p}.requires_grad_({flag})"],
            [f"{target}.requires_grad_({flag})"],
            [f"for name, {p} in {target}.named_parameters():", f"    {p}.requires_grad = {flag}"],
            [
                f"for _, {p} in list({target}.named_parameters()):",
                f"    {p}.requires_grad = {flag}",
            ],
            [
                f"for m in {target}.modules():",
                f"    for {p} in m.parameters(recurse=False):",
                f"        {p}.requires_grad = {flag}",
            ],
            [f"[{p}.requires_grad_({flag}) for {p} in {target}.parameters()]"],
            [
                f"chosen = list({target}.parameters())",
                "for i in range(len(chosen)):",
                f"    chosen[i].requires_grad = {flag}",
            ],
            [f"for {p} in {target}.parameters():", f'    setattr({p}, "requires_grad", {flag})'],
            [f"{target}.apply(lambda m: m.requires_grad_({flag}))"],
            [f"{self.helper('set_trainable')}({target}, {flag})"],
        ]
        if not flag:
            ways.append([f"{self.helper('freeze')}({target})"])
        if self.slips and self.chance(5):
            ways = [
                [f"{target}.requires_grad = {flag}"],
                [f"for {p} in {target}.children():", f"    {p}.requires_grad = {flag}"],
                [f"for {p} in {target}.parameters():", f"    {p}.require_grad = {flag}"],
                [f"for {p} in {target}.parameters():", f"    {p}.requires_grad_ = {flag}"],
                [f"for {p} in {target}.parameters():", f"    {p}.data.requires_grad = {flag}"],
                [f"for {p} in {target}.parameters():", f"    {p}.requires_grad == {flag}"],
            ]
        return self.pick(*ways)

    def _whole(self, model: str, flag: bool) -> Lines:
        if not flag and "freeze" in self.network.methods and self.chance(3):
            return [f"{model}.freeze()"]
        if flag and "unfreeze" in self.network.methods and self.chance(3):
            return [f"{model}.unfreeze()"]
        return self.of(model, flag)

    def _part(self, model: str, flag: bool) -> Lines:
        part = self.pick(*reversed(self.network.parts), self.network.head)
        if flag and "unfreeze" in self.network.methods and part.isidentifier():
            return [f'{model}.unfreeze("{part}")']
        return self.of(model + part, flag)

    def _several(self, model: str, flag: bool) -> Lines:
        first, second = self.network.parts[0], self.pick(*self.network.parts[1:])
        if first.startswith(".") and second.count(".") == 1 and self.chance(3):
            return [
                f'for name in ("{first[1:]}", "{second[1:]}"):',
                f"    getattr({model}, name).requires_grad_({flag})",
            ]
        count = self.pick(1, 2)
        return self.pick(
            [
                f"for part in [{model}{first}, {model}{second}]:",
                *indent(self.of("part", flag)),
            ],
            [
                f"for i, child in enumerate({model}.children()):",
                f"    if i < {count}:",
                *indent(self.of("child", flag), 2),
            ],
            [f"for child in list({model}.children())[:{count}]:", *indent(self.of("child", flag))],
            [
                f"for p in list({model}.parameters())[:{count + 1}]:",
                f"    p.requires_grad = {flag}",
            ],
        )

    def _but_head(self, model: str, flag: bool) -> Lines:
        word = self.network.head_word
        if "freeze_backbone" in self.network.methods and self.chance(3):
            return [f"{model}.freeze_backbone()"]
        return self.pick(
            [
                f"for name, p in {model}.named_parameters():",
                f'    if not name.startswith("{word}"):',
                "        p.requires_grad = False",
            ],
            [
                f"for name, p in {model}.named_parameters():",
                f'    p.requires_grad = "{word}" in name',
            ],
            [f'{self.helper("train_names")}({model}, ["{word}"])'],
            [*self.freeze_all(model), *self.of(model + self.network.head, True)],
        )

    def condition(self) -> str:
        """A test on `name`."""
        word = self.pick(*self.network.words, self.network.head_word)
        other = self.pick(*self.network.words)
        tests = [
            f'"{word}" in name',
            f'name.startswith("{word}")',
            f'"{word}" not in name',
            f'not name.startswith("{word}")',
            f'"{word}" in name or "{other}" in name',
            f'name.startswith(("{word}", "{other}"))',
            f'any(word in name for word in ["{word}", "{other}"])',
            f'all(word not in name for word in ["{word}", "{other}"])',
            f'name.split(".")[0] == "{word}"',
            f'name.split(".")[0] in ["{word}", "{other}"]',
        ]
        if self.slips:
            tests += [
                '"bn" in name',
                'name.endswith("bias")',
                '"backbon" in name',
                '"norm" in name',
            ]
        return self.pick(*tests)

    def _named(self, model: str, flag: bool) -> Lines:
        test = self.condition()
        words = f'["{self.pick(*self.network.words)}", "{self.pick(*self.network.words)}"]'
        helper = "freeze_names" if not flag else "train_names"
        loop = f"for name, p in {model}.named_parameters():"
        return self.pick(
            [loop, f"    if {test}:", f"        p.requires_grad = {flag}"],
            [
                loop,
                f"    if {test}:",
                f"        p.requires_grad = {flag}",
                "    else:",
                f"        p.requires_grad = {not flag}",
            ],
            [loop, f"    p.requires_grad = {test}"],
            [loop, f"    if {test}:", "        continue", f"    p.requires_grad = {flag}"],
            [
                loop,
                f"    if {test}:",
                f"        p.requires_grad = {flag}",
                f"    elif {self.condition()}:",
                f"        p.requires_grad = {not flag}",
            ],
            [f"{self.helper(helper)}({model}, {words})"],
        )

    def _batchnorm(self, model: str, flag: bool) -> Lines:
        test = self.pick(self.network.norm, "(nn.BatchNorm1d, nn.BatchNorm2d)")
        head = [f"for m in {model}.modules():", f"    if isinstance(m, {test}):"]
        return self.pick(
            [*head, *indent(self.of("m", flag), 2)],
            [*head, "        m.eval()"],
            [*head, "        m.eval()", *indent(self.of("m", flag), 2)],
            [
                *head,
                f"        m.weight.requires_grad = {flag}",
                f"        m.bias.requires_grad = {flag}",
            ],
        )

    # -- modes ----------------------------------------------------------------------------

    def hold(self, model: str) -> Lines:
        """Put BatchNorm, or a part, in eval mode."""
        ways = [
            [f"{self.helper('hold_frozen_batchnorm')}({model})"],
            [f"{self.helper('hold_batchnorm')}({model})"],
            [
                f"for m in {model}.modules():",
                f"    if isinstance(m, {self.network.norm}):",
                f"        {self.pick('m.eval()', 'm.train(False)')}",
            ],
            [f"{model}.apply({self.helper('batchnorm_off')})"],
            [f"{model}{self.pick(*self.network.parts)}.eval()"],
        ]
        if "freeze_bn" in self.network.methods:
            ways.append([f"{model}.freeze_bn()"])
        return self.pick(*ways)

    # -- the head -------------------------------------------------------------------------

    def new_head(self, model: str) -> Lines:
        """Replace the last layer."""
        head, width = self.network.head, self.network.width
        target = model + head
        made = f"nn.Linear({width}, {CLASSES})"
        ways = [[f"{target} = {made}"]]
        if not head.startswith("["):
            name = head.lstrip(".")
            ways.append([f'setattr({model}, "{name}", {made})'])
            if self.plain_head:
                ways.append([f"{target} = nn.Linear({target}.in_features, {CLASSES})"])
                ways.append([f'{self.helper("new_head")}({model}, "{name}")'])
                ways.append(
                    [
                        f"features = {target}.in_features",
                        f"{target} = nn.Linear(features, {CLASSES})",
                    ]
                )
        if self.slips and self.chance(12):
            return [f"{model}.classifer = {made}"]
        if self.chance(6):
            self.plain_head = False
            ways = [[f"{target} = nn.Sequential(nn.Dropout(0.1), {made})"]]
        return self.pick(*ways)
