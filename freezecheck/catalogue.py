"""The rules, one by one. Codes are never reused; a rule that proves wrong is retired."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache

from freezecheck.rule import Rule

# Module names under freezecheck/rules, in the order of their codes.
MODULES = (
    "fc001_unused_suppression",
    "fc002_unknown_code_in_suppression",
    "fc003_could_not_read",
    "fc101_module_requires_grad_assignment",
    "fc102_misspelled_requires_grad",
    "fc103_requires_grad_method_overwritten",
    "fc104_requires_grad_on_copy",
    "fc105_statement_without_effect",
    "fc106_freeze_undone",
    "fc107_name_pattern_matches_nothing",
    "fc108_name_pattern_too_wide",
    "fc109_name_pattern_misses_norms",
    "fc110_head_frozen_with_backbone",
    "fc111_tied_parameter_frozen",
    "fc112_unregistered_submodule",
    "fc113_loss_requires_grad_forced",
    "fc114_no_gradient_arrives",
    "fc115_peft_head_not_trainable",
    "fc116_peft_adapters_frozen",
    "fc117_embedding_frozen_by_default",
    "fc118_from_pretrained_discarded",
    "fc119_frozen_random_backbone",
    "fc120_nothing_trainable",
    "fc121_head_attribute_unused",
    "fc122_out_features_assignment",
    "fc201_trainable_not_in_optimizer",
    "fc202_optimizer_holds_foreign_parameters",
    "fc203_optimizer_only_frozen",
    "fc204_empty_parameter_group",
    "fc205_parameter_stepped_twice",
    "fc206_frozen_parameter_still_moves",
    "fc207_unknown_group_key",
    "fc208_optimizer_recreated_each_epoch",
    "fc209_stale_optimizer_state",
    "fc210_optimizer_state_mismatched",
    "fc211_loaded_state_overrides_rates",
    "fc212_frozen_parameters_in_optimizer",
    "fc301_one_rate_for_backbone_and_head",
    "fc302_rates_inverted",
    "fc303_rate_not_lowered_after_unfreeze",
    "fc304_added_group_takes_default_rate",
    "fc305_scheduler_on_old_optimizer",
    "fc306_scheduler_misses_group",
    "fc307_scheduler_flattens_groups",
    "fc308_scheduler_raises_group",
    "fc309_scheduler_recreated",
    "fc310_schedule_horizon_mismatch",
    "fc311_group_added_during_warm_up",
    "fc312_zero_rate_as_freeze",
    "fc313_default_rate_unused",
    "fc401_frozen_batchnorm_in_train_mode",
    "fc402_batchnorm_eval_undone",
    "fc403_eval_mode_stuck",
    "fc404_training_in_eval_mode",
    "fc405_train_mode_in_validation",
    "fc406_batchnorm_type_check_too_narrow",
    "fc407_track_running_stats_flipped",
    "fc408_method_shadowed_by_attribute",
    "fc409_frozen_part_stochastic",
    "fc410_checkpointing_doubles_batchnorm_updates",
    "fc411_ema_without_buffers",
    "fc412_batchnorm_tiny_batch",
    "fc413_batchnorm_statistics_never_set",
    "fc501_trainability_changed_after_ddp_wrap",
    "fc502_mixed_trainability_in_flat_parameter",
    "fc503_reentrant_checkpoint_frozen_inputs",
    "fc504_compiled_graph_ignores_unfreeze",
    "fc505_ranks_disagree",
    "fc506_backbone_finetuning_trains_batchnorm",
    "fc507_loss_gets_wrong_input",
    "fc601_non_finite_loss",
    "fc602_loss_explosion",
    "fc603_one_class_collapse",
    "fc604_learning_rate_near_critical",
    "fc605_batchnorm_drift",
    "fc606_feature_drift",
    "fc607_below_linear_probe",
    "fc608_no_progress",
    "fc609_train_eval_gap",
    "fc701_trainable_changed_after_compile",
    "fc702_unfrozen_batchnorm_in_training",
    "fc703_keras_rate_not_lowered_after_unfreeze",
    "fc704_regularizer_set_after_build",
    "fc705_head_dropped",
)


@cache
def load() -> tuple[Rule, ...]:
    """Every rule, in the order of codes."""
    return tuple(_load(name) for name in MODULES)


def _load(name: str) -> Rule:
    module = importlib.import_module(f"freezecheck.rules.{name}")
    (kind,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Rule)
        and value.__module__ == module.__name__
    )
    return kind()


def select(
    select: Iterable[str] | None = None, ignore: Iterable[str] | None = None
) -> tuple[Rule, ...]:
    """The rules chosen by code (`FC201`), prefix (`FC2`) or name; all when nothing is selected.

    ValueError for a selector that chooses no rule, with the nearest that does.
    """
    wanted = None if select is None else known(select)
    dropped = known(ignore or ())
    return tuple(
        rule
        for rule in load()
        if (wanted is None or matches(rule, wanted)) and not matches(rule, dropped)
    )


def find(selector: str) -> Rule:
    """One rule by its code or name; ValueError with the nearest otherwise."""
    for rule in load():
        if selector.upper() == rule.code or selector.lower() == rule.name:
            return rule
    raise ValueError(_unknown(selector))


def known(selectors: Iterable[str]) -> tuple[str, ...]:
    """The selectors; ValueError for one that chooses no rule."""
    selectors = (selectors,) if isinstance(selectors, str) else tuple(selectors)
    for selector in selectors:
        if not any(matches(rule, (selector,)) for rule in load()):
            raise ValueError(_unknown(selector))
    return selectors


def matches(rule: Rule, selectors: Iterable[str]) -> bool:
    """Whether one of the selectors chooses a rule."""
    return any(
        rule.name == s.lower() or (s.upper().startswith("FC") and rule.code.startswith(s.upper()))
        for s in selectors
    )


def _unknown(selector: str) -> str:
    near = nearest(selector, [word for rule in load() for word in (rule.code, rule.name)])
    hint = f"; did you mean {near}?" if near else "; `freezecheck rules` lists them"
    return f"unknown rule {selector!r}{hint}"


def nearest(given: str, words: Iterable[str]) -> str:
    """The word that is most like a misspelt one; "" if none is."""
    word = max(words, key=lambda word: _closeness(given, word), default="")
    return word if word and _closeness(given, word)[0] >= 0.6 else ""


def _closeness(given: str, word: str) -> tuple[float, int]:
    """How alike two words are; of equals, how far they begin alike (FC20l: FC201, not FC210)."""
    import difflib  # slow to import, and only mistakes need it

    matcher = difflib.SequenceMatcher(None, given.lower(), word.lower())
    first = matcher.find_longest_match()
    return matcher.ratio(), first.size if first.a == first.b == 0 else 0
