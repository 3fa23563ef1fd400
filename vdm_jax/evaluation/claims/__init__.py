"""Claims of published methods: what is measured, and when it counts as reproduced."""

from vdm_jax.evaluation.claims.claim import Check, Claim
from vdm_jax.evaluation.claims.lab import BUDGETS, Base, Lab

__all__ = ["BUDGETS", "Base", "Check", "Claim", "Lab"]
