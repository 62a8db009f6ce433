"""What training commands say that they took."""

from __future__ import annotations

import argparse

import pytest

from sparse_jax.commands import spending


def parsed(*argv):
    parser = argparse.ArgumentParser()
    spending.add_price(parser)
    return parser.parse_args(argv)


def test_a_price_gives_a_cost(capsys):
    args = parsed("--price-per-hour", "0.36")
    found = spending.spent(args)
    assert found["cost"] == pytest.approx(0.36 * found["elapsed_seconds"] / 3600, abs=1e-6)
    assert found["cpu_seconds"] >= 0 and "joules" in found
    said = capsys.readouterr().out
    assert "at 0.36 an hour" in said and "s of processors" in said


def test_without_one_there_is_none(capsys):
    found = spending.spent(parsed())
    assert "cost" not in found and "an hour" not in capsys.readouterr().out


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "cheap"])
def test_a_price_is_a_number_from_0_on(price, capsys):
    with pytest.raises(SystemExit):
        parsed(f"--price-per-hour={price}")
    assert "--price-per-hour" in capsys.readouterr().err
