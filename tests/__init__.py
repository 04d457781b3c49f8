"""Tests; the real prices they use are beside the checkout, if at all."""
