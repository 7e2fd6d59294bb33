"""What the panels ask Prometheus."""

from __future__ import annotations

from grafana.panels import Target

INSTANCE = 'instance=~"$instance"'
DEVICE = f'{INSTANCE}, device=~"$device"'
MODEL = f'{DEVICE}, model=~"$model"'
WINDOW = "[$__rate_interval]"
QUANTILES = (50, 95, 99)


def rate(family: str, selector: str, by: str = "") -> str:
    """What a counter of `selector` gains in a second, over all or `by` some labels."""
    of = f"lemonade_{family}{{{selector}}}{WINDOW}"
    return f"sum by ({by}) (rate({of}))" if by else f"sum(rate({of}))"


def quantile(percent: int, family: str, selector: str = MODEL, by: str = "le") -> str:
    return f"histogram_quantile({percent / 100:g}, {rate(f'{family}_bucket', selector, by)})"


def quantiles(family: str) -> list[Target]:
    return [Target(quantile(percent, family), f"p{percent}") for percent in QUANTILES]


def heat(family: str, selector: str = MODEL) -> Target:
    series = f"lemonade_{family}_bucket{{{selector}}}"
    return Target(f"sum by (le) (increase({series}{WINDOW}))", "{{le}}", format="heatmap")


def gauge(family: str, selector: str = MODEL, by: str = "instance, model, device") -> str:
    return f"sum by ({by}) (lemonade_{family}{{{selector}}})"
