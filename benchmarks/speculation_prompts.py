"""The prompts of `benchmarks.speculation`, by kind."""

from __future__ import annotations

from typing import Final

_PASSAGE: Final = (
    "The Brenner line runs from Innsbruck in Austria over the Brenner Pass to Verona in "
    "Italy. It was opened on 24 August 1867 after three years of work, and was the second "
    "railway to cross the main ridge of the Alps, after the Semmering line. Its engineer, "
    "Karl von Etzel, died in 1865, two years before the first train. The summit lies at 1,371"
    " metres and, other than at Semmering, there is no tunnel under it: the line climbs to "
    "the pass itself. A base tunnel of 55 kilometres has been under construction since 2008 "
    "and is expected to open in 2032. It will shorten the journey from Innsbruck to Fortezza "
    "from 80 minutes to 25."
)
_NOTES: Final = (
    "Minutes of the garden club, 3 May. Present: Anna Weber, Tom Ellis, Maria Rossi, Jan "
    "Novak. The club has 412 euros left after buying the water pump for 188 euros. Tom Ellis "
    "will repair the fence before 20 May. Maria Rossi orders forty tomato plants and ten "
    "pumpkins. Jan Novak asks that the gate be locked at night, since two spades and a "
    "wheelbarrow were stolen in April. All agree. The next meeting is on 7 June at 18:00 in "
    "the house of Anna Weber."
)
_CODE: Final = """def load_orders(path):
    orders = []
    with open(path) as file:
        for line in file:
            name, amount, price = line.strip().split(",")
            orders.append({"name": name, "amount": int(amount), "price": float(price)})
    return orders


def total(orders):
    result = 0.0
    for order in orders:
        result += order["amount"] * order["price"]
    return result
"""
_LETTER: Final = (
    "Dear Mr Hansen,\n\nThank you for your letter of 12 March. We have looked into the delivery of "
    "your order and found that the parcel was sent to the wrong address. A new parcel left our "
    "warehouse this morning and will reach you on Friday. We are sorry for the trouble.\n\n"
    "Yours sincerely,\nPetra Lang"
)
_TABLE: Final = (
    "city,country,population\nLyon,France,522000\nGraz,Austria,303000\nPorto,Portugal,232000\n"
    "Bergen,Norway,289000\nTurin,Italy,841000\n"
)

PROMPTS: Final = {
    "chat": (
        "What is a good way to learn to swim as an adult?",
        "Why is the sky blue during the day and red in the evening?",
        "Tell me a short story about a lighthouse keeper and a fox.",
        "Give me five ideas for a birthday present for my grandmother.",
        "How does a bicycle stay upright?",
        "What should I see in Vienna in two days?",
        "Explain to a child what a computer program is.",
    ),
    "passage": (
        f"Summarise this text in three sentences.\n\n{_PASSAGE}",
        f"List all dates and years in this text, and what happened then.\n\n{_PASSAGE}",
        f"{_PASSAGE}\n\nWho was the engineer of the line, and when was it opened?",
        f"Summarise these minutes.\n\n{_NOTES}",
        f"Which tasks do the people in these minutes have? One line for each.\n\n{_NOTES}",
        f"{_NOTES}\n\nHow much money has the club, and when does it meet again?",
        f"Quote the sentences of this text that have a number in them.\n\n{_PASSAGE}",
    ),
    "edit": (
        f"Rename the variable `orders` to `sales` in this code.\n\n```python\n{_CODE}```",
        f"Add type annotations to this code.\n\n```python\n{_CODE}```",
        f"Add a docstring to each function.\n\n```python\n{_CODE}```",
        f"Repeat this letter, but with Monday instead of Friday.\n\n{_LETTER}",
        f"Correct the spelling of this letter and repeat it.\n\n{_LETTER}",
        f"Repeat this table with a fourth column, `continent`.\n\n{_TABLE}",
        f"Turn this table into JSON.\n\n{_TABLE}",
    ),
}
