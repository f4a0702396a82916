"""Optimizers and schedulers of generated scripts, and the parameters they are given."""

from __future__ import annotations

from statements import Lines, Statements

RATES = ("0.01", "0.1", "0.001", "0.0001")


class Building(Statements):
    """Lines that build an optimizer called `optimizer`, or a scheduler."""

    def optimizer(self, model: str, variable: str = "optimizer") -> Lines:
        setup, params = self.pick(self._single, self._single, self._grouped)(model)
        kind, options = self.pick(
            ("SGD", "lr={}"),
            ("SGD", "lr={}, momentum=0.9"),
            ("SGD", "lr={}, momentum=0.9, weight_decay=0.001"),
            ("Adam", "lr={}"),
            ("AdamW", "lr={}"),
            ("AdamW", "lr={}, weight_decay=0.05"),
        )
        options = options.format(self.pick(*RATES))
        call = self.pick(
            f"torch.optim.{kind}({params}, {options})",
            f"optim.{kind}({params}, {options})",
        )
        if self.chance(8):
            setup = [*setup, f"options = dict({options})"]
            call = f"optim.{kind}({params}, **options)"
        elif self.chance(10):
            setup = [*setup, f"build = functools.partial(optim.{kind}, {options})"]
            call = f"build({params})"
        elif self.chance(10):
            setup = [*setup, f"kind = getattr(optim, '{kind}')"]
            call = f"kind({params}, {options})"
        return [*setup, f"{variable} = {call}"]

    def _single(self, model: str) -> tuple[Lines, str]:
        """Parameters without groups."""
        head = f"{model}{self.network.head}"
        part = f"{model}{self.pick(*self.network.parts)}"
        filtered = self.pick(
            f"filter(lambda p: p.requires_grad, {model}.parameters())",
            f"(p for p in {model}.parameters() if p.requires_grad)",
            f"[p for p in {model}.parameters() if p.requires_grad]",
            f"[p for _, p in {model}.named_parameters() if p.requires_grad]",
        )
        ways: list[tuple[Lines, str]] = [
            ([], f"{model}.parameters()"),
            ([], f"{head}.parameters()"),
            ([], filtered),
            ([], filtered),
            ([], f"{self.helper('trainable')}({model})"),
            ([f"params = {filtered}"], "params"),
            ([f"params = list({model}.parameters())"], "params"),
            ([], f"list({part}.parameters()) + list({head}.parameters())"),
            ([], f"[*{part}.parameters(), *{head}.parameters()]"),
            ([], f"itertools.chain({part}.parameters(), {head}.parameters())"),
            (
                [
                    "params = []",
                    f"for name, p in {model}.named_parameters():",
                    f"    if {self.pick('p.requires_grad', self.condition())}:",
                    "        params.append(p)",
                ],
                "params",
            ),
            ([f"params = [p for n, p in {model}.named_parameters() if n]"], "params"),
        ]
        if self.chance(12):
            ways = [
                (
                    [
                        f"params = [p for p in {model}.parameters() if p.requires_grad]",
                        "print(len(params))",
                    ],
                    "params",
                ),
                (
                    [f"params = iter({self.helper('trainable')}({model}))", "first = next(params)"],
                    "params",
                ),
            ]
        return self.pick(*ways)

    def _rates(self) -> tuple[str, str]:
        low, high = self.pick(
            ("0.001", "0.01"), ("0.0001", "0.01"), ("0.01", "0.01"), ("0.01", "0.001")
        )
        if self.chance(12):
            return "0", high
        return low, high

    def _grouped(self, model: str) -> tuple[Lines, str]:
        low, high = self._rates()
        head, parts = f"{model}{self.network.head}", self.network.parts
        word = self.network.head_word
        key = "learning_rate" if self.slips and self.chance(6) else "lr"
        first = f'"{key}": {low}' if self.pick(True, True, False) else '"weight_decay": 0.0'
        second = self.pick(f', "lr": {high}', f', "lr": {high}', "")

        def pair(one: str, two: str) -> str:
            return f'[{{"params": {one}, {first}}}, {{"params": {two}{second}}}]'

        body = f"{model}{self.pick(*parts)}"
        wanted = self.pick(
            "[p for p in {} if {}]", "(p for p in {} if {})", "list(p for p in {} if {})"
        )
        ways: list[tuple[Lines, str]] = [
            ([], pair(f"{body}.parameters()", f"{head}.parameters()")),
            (
                [
                    f"head_ids = {self.pick('set', 'list')}(map(id, {head}.parameters()))",
                    f"base = {wanted.format(f'{model}.parameters()', 'id(p) not in head_ids')}",
                ],
                pair("base", f"{head}.parameters()"),
            ),
            (
                [
                    f'base = [p for n, p in {model}.named_parameters() if "{word}" not in n]',
                    f'last = [p for n, p in {model}.named_parameters() if "{word}" in n]',
                ],
                pair("base", "last"),
            ),
            (
                [
                    f'base = [p for n, p in {model}.named_parameters() if not n.startswith("{word}") and p.requires_grad]',
                ],
                pair("base", f"{head}.parameters()"),
            ),
            (
                [
                    "groups = []",
                    f"for depth, part in enumerate([{head}, {model}{parts[-1]}, {model}{parts[1]}]):",
                    f'    groups.append({{"params": part.parameters(), "lr": {high} * 0.5 ** depth}})',
                ],
                "groups",
            ),
            (
                [],
                f'[{{"params": m.parameters(), "lr": {low}}} for m in ({head}, {body})]',
            ),
            ([], f'[{{"params": {model}.parameters(), "lr": {low}}}]'),
            (
                [
                    "decay, plain = [], []",
                    f"for name, p in {model}.named_parameters():",
                    "    if not p.requires_grad:",
                    "        continue",
                    "    (plain if p.ndim < 2 else decay).append(p)",
                ],
                '[{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]',
            ),
        ]
        if "backbone_parameters" in self.network.methods:
            ways.append(([], pair(f"{model}.backbone_parameters()", f"{head}.parameters()")))
        if self.chance(8):
            used = f"filter(lambda p: p.requires_grad, {body}.parameters())"
            ways = [
                (
                    [f"base = {used}", f'print({self.helper("count")}(base), "parameters")'],
                    pair("base", f"{head}.parameters()"),
                )
            ]
        return self.pick(*ways)

    def added(self, model: str, optimizer: str = "optimizer") -> Lines:
        """A group added later."""
        part = f"{model}{self.pick(*self.network.parts)}"
        rate = self.pick("", ', "lr": 0.0001', ', "lr": 0.01')
        params = self.pick(
            f"{part}.parameters()", f"[p for p in {part}.parameters() if p.requires_grad]"
        )
        return [f'{optimizer}.add_param_group({{"params": {params}{rate}}})']

    def rates(self, optimizer: str = "optimizer") -> Lines:
        """Rates set by hand."""
        change = self.pick('["lr"] *= 0.1', '["lr"] = 0.0001', '["lr"] = group["lr"] / 10')
        return [f"for group in {optimizer}.param_groups:", f"    group{change}"]

    def scheduler(self, epochs: int, optimizer: str = "optimizer") -> tuple[Lines, str]:
        """Its lines, and when it is stepped: "epoch" or "batch"."""
        batches = epochs * 2
        base = self.pick("optim.lr_scheduler", "torch.optim.lr_scheduler")
        text, when = self.pick(
            (f"StepLR({optimizer}, step_size=1, gamma=0.1)", "epoch"),
            (f"StepLR({optimizer}, 2)", "epoch"),
            (f"CosineAnnealingLR({optimizer}, T_max={epochs})", "epoch"),
            (f"CosineAnnealingLR({optimizer}, T_max={epochs}, eta_min=0.005)", "epoch"),
            (f"CosineAnnealingLR({optimizer}, T_max=1)", "epoch"),
            (f"ExponentialLR({optimizer}, gamma=0.5)", "epoch"),
            (f"LambdaLR({optimizer}, lambda epoch: 0.5 ** epoch)", "epoch"),
            (f"LinearLR({optimizer}, start_factor=0.1, total_iters={epochs})", "epoch"),
            (f"OneCycleLR({optimizer}, max_lr=0.1, total_steps={batches})", "batch"),
            (
                f'OneCycleLR({optimizer}, [g["lr"] for g in {optimizer}.param_groups],'
                f" total_steps={batches})",
                "batch",
            ),
            (f"OneCycleLR({optimizer}, max_lr=0.1, epochs={epochs}, steps_per_epoch=2)", "batch"),
        )
        return [f"scheduler = {base}.{text}"], when
