"""Stages: the consecutive modules at which people freeze.

No table of architectures: the stages of ResNet, VGG, BERT, a timm ViT or the
user's own network are read off the module tree. Going down from the root, the
level to cut at is the first that holds a numbered family (`layer1..layer4`,
`blocks.0..11`); what comes before it is the stem, the last layer with weights
is the head.
"""

from __future__ import annotations

import re

from freezecheck.live.tree import Node
from freezecheck.snapshot import Stage

_FAMILY = 3  # numbered siblings that make a level the stage level
_SHARE = 0.1  # a child with this share of its level's parameters is cut further
_NUMBERED = re.compile(r"^(.*?)(\d+)$")


def cut(nodes: list[Node]) -> list[Stage]:
    """The stages of a walked tree; sets `Node.stage` on every node.

    Parameters that sit directly on a module that was cut (`cls_token`) belong
    to the stage of the first module after them.
    """
    if not nodes:
        return []
    groups = _merge_stem(_split(nodes[0]))
    head = _last_layer(nodes)
    stages = []
    for index, group in enumerate(groups):
        for top in group:
            top.stage = index
        stages.append(Stage(_name(group), tuple(node.path for node in group)))
    _adopt(nodes)
    _mark(stages, groups, head)
    return stages


def _split(top: Node) -> list[list[Node]]:
    """Cut below `top` until the stage level is reached."""
    top, children = _fork(top)
    if not children:
        return [[top]]
    if _has_family(children):
        return [[child] for child in children]
    groups: list[list[Node]] = []
    for child in children:
        if child.numel >= _SHARE * top.numel and _divisible(child):
            groups.extend(_split(child))
        else:
            groups.append([child])
    return groups


def _fork(node: Node) -> tuple[Node, list[Node]]:
    """The first module at or below `node` with several children that have parameters."""
    while True:
        children = [child for child in node.children if child.numel]
        if len(children) != 1:
            return node, children
        node = children[0]


def _divisible(node: Node) -> bool:
    """Cutting it leads to a stage level: a family somewhere below its larger parts."""
    node, children = _fork(node)
    if _has_family(children):
        return True
    return any(c.numel >= _SHARE * node.numel and _divisible(c) for c in children)


def _has_family(children: list[Node]) -> bool:
    families: dict[str, int] = {}
    for child in children:
        if match := _NUMBERED.match(child.name):
            families[match.group(1)] = families.get(match.group(1), 0) + 1
    return any(size >= _FAMILY for size in families.values())


def _merge_stem(groups: list[list[Node]]) -> list[list[Node]]:
    """Join the leading single layers (`conv1`, `bn1`) into one stem."""
    leading = 0
    while leading < len(groups) and not groups[leading][0].children:
        leading += 1
    if leading < 2 or leading == len(groups):
        return groups
    return [[node for group in groups[:leading] for node in group], *groups[leading:]]


def _last_layer(nodes: list[Node]) -> Node | None:
    """The last leaf with parameters that is not a norm: what makes the outputs."""
    for node in reversed(nodes):
        weight = node.module._parameters.get("weight")
        if weight is not None and weight.dim() >= 2:
            return node
    return None


def _adopt(nodes: list[Node]) -> None:
    """Modules below a stage's own belong to it. Those that were cut through belong to the first stage below them, and those
    without parameters to the next stage: a dropout goes with the layer that it feeds."""
    for node in nodes:
        if node.stage < 0 and node.parent is not None:
            node.stage = node.parent.stage
    for node in reversed(nodes):
        if node.stage < 0:
            node.stage = next((c.stage for c in node.children if c.stage >= 0), -1)
    for node in nodes:
        if node.stage < 0:
            node.stage = _beside(node) if node.parent else 0


def _beside(node: Node) -> int:
    """The stage of the next sibling with parameters, else of the last one, else around."""
    siblings = node.parent.children if node.parent else []
    at = siblings.index(node)
    for sibling in (*siblings[at + 1 :], *reversed(siblings[:at])):
        if sibling.numel:
            return sibling.stage
    return max(node.parent.stage, 0) if node.parent else 0


def _mark(stages: list[Stage], groups: list[list[Node]], head: Node | None) -> None:
    if head is not None and len(stages) > 1 and head.stage == len(stages) - 1:
        stages[-1].kind = "head"
    if len(stages) > 2 and all(not node.children for node in groups[0]):
        stages[0].kind = "stem"


def _name(group: list[Node]) -> str:
    """A stage's name: its path, or the first and last path of several."""
    return ", ".join(node.path for node in group) or "model"
