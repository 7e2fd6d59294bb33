"""The dashboard of Grafana, and what writes it.

    python -m grafana > grafana/dashboards/lemonade-serve.json

Generated, because forty panels share their selectors, their legends and their looks, and by hand
they would drift apart; JSON in the repository, because Grafana needs nothing but that file. Where
a quantile is drawn, `rate` is summed over what the variables select, so that the dashboard works
without the recording rules. Needs no package.
"""
