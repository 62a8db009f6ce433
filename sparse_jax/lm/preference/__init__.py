"""Preference fine-tuning of the language model.

`pairs` reads and packs judgements; `reward` is a reward model (Bradley–Terry), `dpo` direct
preference optimization, `policy` a policy gradient with a KL penalty. The last two share the
row-sparse step of `tuning`, whose reference model is made of the rows that changed (`reference`).
`judge` keeps a reward model.
"""

from sparse_jax.lm.preference import dpo, judge, pairs, policy, reference, reward, tuning

__all__ = ["dpo", "judge", "pairs", "policy", "reference", "reward", "tuning"]
