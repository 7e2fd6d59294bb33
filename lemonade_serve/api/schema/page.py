"""The description as a page: no script, and nothing that is loaded from elsewhere."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from markupsafe import Markup

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} {{ info.version }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }
  code, pre { font: 14px/1.4 ui-monospace, monospace }
  pre { background: #8881; padding: .75rem; overflow-x: auto }
  summary { cursor: pointer; padding: .25rem 0 }
  details > :not(summary) { margin-left: 1.25rem }
  table { border-collapse: collapse } td { padding: .1rem .75rem .1rem 0; vertical-align: top }
  .verb { display: inline-block; min-width: 4.5rem; font-weight: 600 }
  :root { color-scheme: light dark }
</style>
<h1>{{ info.title }} <small>{{ info.version }}</small></h1>
<p>{{ info.description }}
<p><a href="/schema/openapi.json">openapi.json</a>

{% for tag in tags %}
<h2>{{ tag.name }}</h2>
<p>{{ tag.description }}
{% for path, item in paths.items() %}{% for verb, operation in item.items() %}
{% if tag.name in operation.tags %}
<details id="{{ operation.operationId }}">
  <summary><code><span class="verb">{{ verb | upper }}</span>{{ path }}</code>
    {{ operation.summary }}</summary>
  <p>{{ operation.description }}
  {% if operation.parameters %}<table>
    {% for parameter in operation.parameters %}
    <tr><td><code>{{ parameter.name }}</code><td>{{ parameter.in }}
      {{- ", required" if parameter.required }}
      <td><code>{{ parameter.schema | tojson }}</code>
    {% endfor %}
  </table>{% endif %}
  {% for media_type, content in operation.get("requestBody", {}).get("content", {}).items() %}
  <p>Body, <code>{{ media_type }}</code>: {{ named(content.schema) }}
    {% for title, example in content.examples.items() %}
    <p>{{ title }}<pre>{{ pretty(example.value) }}</pre>
    {% endfor %}
  {% endfor %}
  <table>
    {% for status, response in operation.responses.items() %}
    <tr><td><code>{{ status }}</code><td>{{ response.description }}
      <td>{% for media_type, content in response.content.items() %}
        <code>{{ media_type }}</code> {{ named(content.get("schema", {})) }}
      {% endfor %}
    {% endfor %}
  </table>
</details>
{% endif %}
{% endfor %}{% endfor %}
{% endfor %}

<h2>Bodies</h2>
{% for name, schema in components.schemas.items() %}
<details id="{{ name }}"><summary><code>{{ name }}</code></summary>
  <p>{{ schema.get("description", "") }}
  <pre>{{ pretty(schema) }}</pre>
</details>
{% endfor %}
</html>
"""


def render(document: dict[str, Any]) -> bytes:
    """The page of an OpenAPI document."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE, {"pretty": _pretty, "named": _named})
    return template.render(document).encode()


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _named(schema: dict[str, Any]) -> str:
    """A link to a body's own place, or what little there is to say of another."""
    for kind in (schema, *schema.get("anyOf", ())):
        if name := kind.get("$ref", "").rpartition("/")[2]:
            return Markup('<a href="#{0}">{0}</a>').format(name)
    return str(schema.get("type", ""))
